"""The stages of the pipeline: what each reads and writes, and how it is run."""
