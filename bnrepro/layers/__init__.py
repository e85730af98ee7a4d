"""What the two papers define: moments, the two layers, the clipping ramp, population statistics."""

from bnrepro.layers.batch_norm import BatchNorm
from bnrepro.layers.batch_renorm import BatchRenorm, renorm_schedules
from bnrepro.layers.population import population_statistics

__all__ = ["BatchNorm", "BatchRenorm", "population_statistics", "renorm_schedules"]
