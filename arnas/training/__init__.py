"""Training: one loop for all losses, adversarial or natural."""
