"""Faster training steps: torch.compile, CUDA graphs, and patches to Lightning."""
