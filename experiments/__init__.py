"""Studies as functions, and the networks and data that they use."""
