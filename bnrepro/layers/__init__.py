"""What the two papers define, and ways in and out: the layers, their ramp, statistics and files."""

from bnrepro.layers.batch_norm import BatchNorm
from bnrepro.layers.batch_renorm import BatchRenorm, renorm_schedules
from bnrepro.layers.interchange import (
    load_variables,
    save_variables,
    to_batch_norm,
    to_batch_renorm,
)
from bnrepro.layers.population import population_statistics

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "load_variables",
    "population_statistics",
    "renorm_schedules",
    "save_variables",
    "to_batch_norm",
    "to_batch_renorm",
]
