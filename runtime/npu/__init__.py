"""Binaries that were compiled for an NPU."""
