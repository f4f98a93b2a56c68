"""Checkpoint → quantized files with a manifest and what they lost."""
