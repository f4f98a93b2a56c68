"""Models in binaries that were compiled for an NPU."""
