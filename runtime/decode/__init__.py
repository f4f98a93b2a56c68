"""Tokens one after the other: sessions, sampling, drafts."""
