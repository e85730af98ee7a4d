"""State, step, loop, evaluation: how a minibatch becomes a number."""

from bnrepro.training.checkpoints import CheckpointError, Checkpoints
from bnrepro.training.devices import STRATEGIES, Devices, fetch, make_devices
from bnrepro.training.evaluation import evaluate, evaluate_minibatches
from bnrepro.training.loop import MAX_STEPS, TrainSteps, initial_states, make_train_steps
from bnrepro.training.measures import MEASURES, Measure, make_measure
from bnrepro.training.optimizers import OPTIMIZERS, SCHEDULES, make_optimizer
from bnrepro.training.state import Numbers, TrainState
from bnrepro.training.step import Task, train_step

__all__ = [
    "MAX_STEPS",
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
    "evaluate_minibatches",
    "fetch",
    "initial_states",
    "make_devices",
    "make_measure",
    "make_optimizer",
    "make_train_steps",
    "train_step",
]
