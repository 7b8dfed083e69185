"""Tasks: what stands between the data and the method, on the device. Augmentations, degradations, codecs."""
