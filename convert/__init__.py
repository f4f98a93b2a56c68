"""A checkpoint becomes GGUF files and ONNX folders."""
