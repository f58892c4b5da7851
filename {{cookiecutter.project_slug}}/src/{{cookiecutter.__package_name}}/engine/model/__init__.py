"""Around the network: checks, weights, freezing, recomputation, optimizers, metrics."""
