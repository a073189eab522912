"""Loading other people's models from weight files and from Python functions."""
