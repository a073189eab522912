"""What every stage needs and no science: errors, seeds, files, devices, progress, manifests."""
