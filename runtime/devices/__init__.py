"""The machine: memory, cores, where a model was placed and whether a provider can be trusted."""
