"""Which image files there are: finding and listing them, and dividing them among splits."""
