"""The record, metrics and checkpoints of a run, from which it is resumed and reproduced."""
