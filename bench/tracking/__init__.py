"""MLflow: runs and models."""
