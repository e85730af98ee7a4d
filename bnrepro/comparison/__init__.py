"""Trains the variants and seeds of a config, and writes their records."""
