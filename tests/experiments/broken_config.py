"""A config of a user's who divides by zero, or forgets to return it."""


def get_config(fault="division"):
    return 1 / 0 if fault == "division" else None
