"""AMSRC: video anomaly detection by appearance-motion semantics consistency (arXiv 2204.04151).

The method alone: frames -> boxes and flow -> cubes -> network -> scores. It knows nothing of Ray,
MLflow or files of results; those live in `bench`.
"""
