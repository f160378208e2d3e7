"""LTX-2 for mold: video with sound."""
