"""The pipeline: its plan, its jobs, and how the two engines run them."""
