"""State, step, loop, evaluation: how a minibatch becomes a number."""

from bnrepro.training.evaluation import Probe, evaluate, evaluate_minibatches
from bnrepro.training.loop import initial_states, make_train_steps
from bnrepro.training.optimizers import OPTIMIZERS, make_optimizer
from bnrepro.training.state import TrainState
from bnrepro.training.step import train_step

__all__ = [
    "OPTIMIZERS",
    "Probe",
    "TrainState",
    "evaluate",
    "evaluate_minibatches",
    "initial_states",
    "make_optimizer",
    "make_train_steps",
    "train_step",
]
