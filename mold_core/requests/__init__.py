"""Completing requests: the model that a request means, and values for what it leaves out."""
