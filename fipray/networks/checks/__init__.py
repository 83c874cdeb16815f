"""Checks that a module is a pure function of its weights: randomness, hidden state, gradients, rows of a batch."""
