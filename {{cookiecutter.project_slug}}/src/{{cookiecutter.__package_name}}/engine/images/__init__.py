"""What is about images: listing, decoding, reading and caching them."""
