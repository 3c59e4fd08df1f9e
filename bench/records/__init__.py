"""What is kept of a run: records, run folders, measured speeds; how a run is named and found."""
