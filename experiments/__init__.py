"""One driver a comparison."""
