"""The repository's own sweeps: get_config() and, with what to vary, get_sweep()."""
