"""Images: listing, checking, decoding, reading and caching them."""
