"""Loading other people's models: weight files and Python factories."""
