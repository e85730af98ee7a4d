"""One driver per comparison."""
