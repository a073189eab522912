"""Hand-designed network families, one a file."""
