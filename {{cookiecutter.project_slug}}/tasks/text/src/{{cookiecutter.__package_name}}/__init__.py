"""Train a text classifier at the speed of the GPU, and repeat any run."""
