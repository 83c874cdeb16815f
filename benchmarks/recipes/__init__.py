"""Networks and data of others, on which recipes are tried with no setting but these."""
