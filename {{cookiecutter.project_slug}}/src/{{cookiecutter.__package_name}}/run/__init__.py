"""What training needs around it: its record, its metrics, its progress and its pictures."""
