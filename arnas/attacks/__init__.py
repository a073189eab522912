"""Attacks: threat models, and one attack a file. The public functions are exported by `arnas`."""
