"""Train an image classifier at the speed of the GPU, and be able to repeat every run."""
