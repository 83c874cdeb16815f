"""Paths beside other methods, in the same run and time."""
