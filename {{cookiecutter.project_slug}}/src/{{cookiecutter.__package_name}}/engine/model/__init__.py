"""What a network needs around it: known names, weights, head, optimizer, metrics, checks."""
