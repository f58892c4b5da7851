"""Faster training steps: torch.compile, CUDA graphs, several devices, and patches to Lightning."""
