"""Evaluation: protocols, per-image outcomes and intervals."""
