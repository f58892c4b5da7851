"""From a source of images to augmented batches: source, order, loader, augmentation."""
