"""Tiny models for mold, trained from scratch by the scripts in `training/` and shipped inside this package."""
