"""Sweeps: many trials of one config, searched by Optuna and trained as few programs."""
