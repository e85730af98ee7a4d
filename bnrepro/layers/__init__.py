"""What the two papers define: the arithmetic, the layers in Linen and NNX, their statistics."""

from bnrepro.layers.linen import BatchNorm, BatchRenorm
from bnrepro.layers.population import population_statistics
from bnrepro.layers.schedules import delayed_renorm_schedules, renorm_schedules

__all__ = [
    "BatchNorm",
    "BatchRenorm",
    "delayed_renorm_schedules",
    "population_statistics",
    "renorm_schedules",
]
