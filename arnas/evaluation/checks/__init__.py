"""Checks for the known ways of overestimating robust accuracy."""
