"""Common corruptions, and the accuracy on them."""
