"""What is about texts: reading tables of them, tokens, masks, and encoders of transformers."""
