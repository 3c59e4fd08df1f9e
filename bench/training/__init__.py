"""Cube store to trained method: the visible loop, several workers, scoring."""
