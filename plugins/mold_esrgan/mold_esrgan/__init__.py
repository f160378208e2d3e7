"""Real-ESRGAN super-resolution for mold."""
