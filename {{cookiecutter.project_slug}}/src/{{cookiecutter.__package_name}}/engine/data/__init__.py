"""Data loading: splits as rows, the order of samples, and the loaders of batches."""
