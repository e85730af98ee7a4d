"""How the variants of a config, times its seeds, become records."""
