"""Completes requests: resolves the model and fills in defaults."""
