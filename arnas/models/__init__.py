"""Models by name: pixels in [0, 1] to logits."""
