"""Searches: trials, their commits, proposals of values, and the runner of a search in this process."""
