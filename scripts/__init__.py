"""What is done across runs, each by `python -m scripts.NAME`."""
