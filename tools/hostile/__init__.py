"""Gives hostile and damaged files to the command `mimo`, each in a process of its own, and tells how it ended."""
