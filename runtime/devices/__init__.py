"""The machine: memory, cores, where a model was placed, whether a provider can be trusted."""
