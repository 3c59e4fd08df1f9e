"""AMSRC: video anomaly detection by appearance-motion semantics consistency (arXiv 2204.04151).

The method alone: frames -> boxes and flow -> cubes -> network -> scores. It does not depend on
Ray, MLflow or result files; these are in `bench`.
"""
