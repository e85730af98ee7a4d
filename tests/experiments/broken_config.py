"""Configs of users: who divide by zero, exit, forget to return it, leave things out, or refer."""

import sys

from ml_collections import ConfigDict, FrozenConfigDict


def get_config(fault="division"):
    if fault == "bare":
        return FrozenConfigDict()
    if fault == "plain":
        model = ConfigDict({"hidden": [8, 8]}).lock()
        return ConfigDict({"optimizer": {"learning_rate": 1}, "model": model})
    if fault == "number":
        return ConfigDict({"model": 3})
    if fault == "reference":
        config = ConfigDict({"batch_size": 32})
        config.microbatch_size = config.get_ref("batch_size") // 2
        return config
    if fault == "exit":
        sys.exit("no")
    return 1 / 0 if fault == "division" else None
