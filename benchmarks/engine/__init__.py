"""Cost of the engine: steps, products with the metric, attacks, forward passes of ensembles."""
