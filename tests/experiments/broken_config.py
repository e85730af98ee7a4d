"""A config of a user's who divides by zero."""


def get_config():
    return 1 / 0
