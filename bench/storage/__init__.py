"""Where work is stored: local, shared or s3 places, the copy on each node, databases in a bucket."""
