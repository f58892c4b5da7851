"""What trains any task: the template's, and replaced whole by an update."""
