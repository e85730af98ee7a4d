"""Data sets as arrays, and the samplers that draw minibatches from them."""

from bnrepro.data.datasets import Dataset, DatasetError, load_dataset
from bnrepro.data.samplers import SAMPLERS, Sampler, make_sampler

__all__ = ["SAMPLERS", "Dataset", "DatasetError", "Sampler", "load_dataset", "make_sampler"]
