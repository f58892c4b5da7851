"""Whether files can be used: each is inspected once, and what is found is kept."""
