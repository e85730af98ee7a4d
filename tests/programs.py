"""Programs that the tests of a module share, since compiling them takes most of its time."""

import json


def made_once(make_program):
    """`make_program`, but for a config that it has seen it returns the program it made then.

    For tests that patch nothing a program is made of, and have one data set.
    """
    programs = {}

    def make(config, data, devices):
        key = json.dumps(config, sort_keys=True)
        if key not in programs:
            programs[key] = make_program(config, data, devices)
        return programs[key]

    return make
