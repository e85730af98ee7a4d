"""Data sets as arrays, the samplers that draw from them, and sources of minibatches."""

from bnrepro.data.datasets import Dataset, DatasetError, load_dataset
from bnrepro.data.descriptions import describe_dataset
from bnrepro.data.samplers import SAMPLERS, Sampler, make_sampler
from bnrepro.data.shards import Shards
from bnrepro.data.sources import (
    Examples,
    Source,
    fixed_examples,
    make_draw,
    resident,
    take_images,
)
from bnrepro.data.streams import stream

__all__ = [
    "SAMPLERS",
    "Dataset",
    "DatasetError",
    "Examples",
    "Sampler",
    "Shards",
    "Source",
    "describe_dataset",
    "fixed_examples",
    "load_dataset",
    "make_draw",
    "make_sampler",
    "resident",
    "stream",
    "take_images",
]
