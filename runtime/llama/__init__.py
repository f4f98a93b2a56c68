"""GGUF files run on llama.cpp."""
