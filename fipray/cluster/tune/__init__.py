"""Searches as trials of Ray Tune."""
