"""A config of a user's who divides by zero, forgets to return it, or leaves everything out."""

from ml_collections import ConfigDict


def get_config(fault="division"):
    if fault == "bare":
        return ConfigDict()
    return 1 / 0 if fault == "division" else None
