"""Checks that a module is a function of its weights: purity, dependence on the parameters, randomness, gradients."""
