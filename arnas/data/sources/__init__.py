"""Dataset sources: one reader a file."""
