"""The report, files and model card of one evaluated model."""
