"""The tables, figures and report of a run."""
