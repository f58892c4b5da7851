"""What makes a step short: compiling, and the whole step as one CUDA graph."""
