"""Published accuracies, and how their protocol differs from ours."""
