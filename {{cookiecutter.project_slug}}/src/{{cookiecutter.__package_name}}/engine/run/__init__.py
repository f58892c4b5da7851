"""What makes a run go on exactly, and lets it be repeated: its record, metrics, checkpoints."""
