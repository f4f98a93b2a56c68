"""Binaries that were compiled for an NPU run on it."""
