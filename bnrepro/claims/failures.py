"""Claims C1 to C9: where Batch Normalization fails, and what Batch Renormalization repairs."""

FAILURES: tuple = ()
