"""ONNX folders run on ONNX Runtime, on the CPU or another execution provider."""
