"""From a file's bytes to pixels: everything that opens or decodes an image file."""
