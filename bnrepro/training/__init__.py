"""Training: state, step, loop, evaluation, measures, devices and checkpoints."""
