"""FLUX.1 for mold: networks in the layout of the official files, sampling, and the family that mold finds."""
