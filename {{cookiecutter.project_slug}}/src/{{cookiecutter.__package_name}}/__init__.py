"""Train an image classifier at the speed of the GPU, and repeat any run."""
