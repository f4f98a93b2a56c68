"""An ONNX folder → binaries for NPUs."""
