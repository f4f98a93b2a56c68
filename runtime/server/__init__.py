"""An HTTP server in OpenAI's form for one loaded model; ``mimo serve`` runs it."""
