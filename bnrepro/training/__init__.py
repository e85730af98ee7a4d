"""State, step, loop, evaluation: how a minibatch becomes a number."""

from bnrepro.training.evaluation import Probe, evaluate
from bnrepro.training.loop import initial_states, make_train_steps
from bnrepro.training.optimizers import OPTIMIZERS, make_optimizer
from bnrepro.training.state import TrainState
from bnrepro.training.step import train_step

__all__ = [
    "OPTIMIZERS",
    "Probe",
    "TrainState",
    "evaluate",
    "initial_states",
    "make_optimizer",
    "make_train_steps",
    "train_step",
]
