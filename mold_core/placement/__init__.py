"""Placement of models: the devices of this machine, their memory, and how a model is held in it."""
