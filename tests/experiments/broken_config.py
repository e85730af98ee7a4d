"""A config of a user's who divides by zero, exits, forgets to return it, or leaves things out."""

import sys

from ml_collections import ConfigDict


def get_config(fault="division"):
    if fault == "bare":
        return ConfigDict()
    if fault == "plain":
        return ConfigDict({"optimizer": {"learning_rate": 1}, "model": {"hidden": [8, 8]}})
    if fault == "exit":
        sys.exit("no")
    return 1 / 0 if fault == "division" else None
