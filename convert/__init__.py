"""Checkpoint → GGUF and ONNX."""
