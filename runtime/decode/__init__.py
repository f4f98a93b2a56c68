"""Logits become tokens, one after the other: sessions, sampling, drafts."""
