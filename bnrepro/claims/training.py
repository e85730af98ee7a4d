"""Claims B1 to B13: what Batch Normalization does for training."""

TRAINING: tuple = ()
