"""Text ↔ tokens: tokenizer, chat template, whole characters, stop strings, thinking."""
