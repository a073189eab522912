"""Datasets: sources, splits of uint8 images, and batches with augmentation on the device."""
