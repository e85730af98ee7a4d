"""Training: state, step, loop, evaluation, measures, devices and checkpoints."""

from bnrepro.training.checkpoints import CheckpointError, Checkpoints
from bnrepro.training.devices import STRATEGIES, Devices, fetch, make_devices
from bnrepro.training.evaluation import evaluate, in_batches, measure_once
from bnrepro.training.loop import TrainSteps, initial_states, make_train_steps
from bnrepro.training.measures import MEASURES, Measure, make_measure
from bnrepro.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from bnrepro.training.state import Numbers, TrainState
from bnrepro.training.step import Task, train_step

__all__ = [
    "MEASURES",
    "OPTIMIZERS",
    "SCHEDULES",
    "STRATEGIES",
    "CheckpointError",
    "Checkpoints",
    "Devices",
    "Measure",
    "Numbers",
    "Task",
    "TrainState",
    "TrainSteps",
    "evaluate",
    "fetch",
    "in_batches",
    "initial_states",
    "make_devices",
    "make_measure",
    "make_optimizer",
    "make_train_steps",
    "measure_once",
    "train_step",
]
