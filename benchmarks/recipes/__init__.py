"""Networks and data on which recipes are measured."""
