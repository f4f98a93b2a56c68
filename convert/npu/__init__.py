"""An ONNX folder becomes binaries for NPUs."""
