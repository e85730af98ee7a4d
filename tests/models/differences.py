"""Gradients of a NumPy function in float64, by central differences."""

import numpy as np


def gradients_by_differences(function, cotangent, *arguments, step=1e-5):
    """The gradients of sum(cotangent * function(*arguments)) with respect to each argument."""
    arguments = [np.array(argument, np.float64) for argument in arguments]
    gradients = [np.zeros_like(argument) for argument in arguments]
    for argument, gradient in zip(arguments, gradients, strict=True):
        for index in np.ndindex(argument.shape):
            value, sums = argument[index], []
            for moved in (value + step, value - step):
                argument[index] = moved
                sums.append(np.sum(cotangent * function(*arguments)))
            argument[index] = value
            gradient[index] = (sums[0] - sums[1]) / (2 * step)
    return gradients
