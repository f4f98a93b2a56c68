"""A checkpoint becomes quantized files, with a manifest and a report on what they lost."""
