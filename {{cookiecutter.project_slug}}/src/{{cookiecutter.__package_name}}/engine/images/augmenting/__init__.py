"""The arithmetic of augmentations: whole batches on the device, uint8 in and uint8 out."""
