"""The search: supernet, architecture gradients, min-norm solver, the two stages, derivation."""
