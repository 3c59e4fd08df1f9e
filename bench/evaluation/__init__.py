"""Scores to metrics: fusion under the selection rules, ROC, intervals, regions, the record."""
