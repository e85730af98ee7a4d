"""The optimizers a config can name, all from Optax."""

from typing import Any

import jax
import optax


def make_optimizer(
    name: str,
    *,
    learning_rate: Any,
    momentum: Any = 0.0,
    weight_decay: Any = 0.0,
    rms_decay: float = 0.9,
    epsilon: float = 1e-8,
    clip_norm: float = 0.0,
    schedule: str = "constant",
    **course: Any,
) -> optax.GradientTransformation:
    """The optax optimizer of that name; a known zero costs nothing.

    Args:
      name: adam, rmsprop or sgd.
      learning_rate: above 0; may be traced.
      momentum: of sgd and rmsprop, in [0, 1); may be traced.
      weight_decay: of the penalty weight_decay / 2 * |w|^2 on all kernels, at least 0; its gradient
        is added to the gradient of the loss; may be traced.
      rms_decay: of rmsprop's average of squared gradients, in [0, 1). The average starts at 0; that
        of TensorFlow 1 starts at 1.
      epsilon: above 0; rmsprop adds it to the average of squared gradients, as TensorFlow 1 does,
        and adam to the square root of that.
      clip_norm: the gradient of the loss is scaled down to this norm over all parameters; 0: never.
      schedule: name of the schedule of the learning rate.
      **course: of the schedule; see `make_schedule`.
    """
    rate = make_schedule(schedule, learning_rate, **course)
    moved = None if _is_zero(momentum) else momentum
    optimizer = {
        "adam": optax.adam(rate, eps=epsilon),
        "rmsprop": optax.rmsprop(rate, decay=rms_decay, eps=epsilon, momentum=moved),
        "sgd": optax.sgd(rate, moved),
    }[name]
    before = []
    if clip_norm:
        before.append(optax.clip_by_global_norm(clip_norm))
    if not _is_zero(weight_decay):
        before.append(optax.add_decayed_weights(weight_decay, _kernels))
    return optax.chain(*before, optimizer) if before else optimizer


def make_schedule(
    name: str,
    learning_rate: Any,
    *,
    steps: int = 1,
    warmup: float = 0.0,
    decay_rate: float = 0.94,
    decay_every: float = 0.1,
) -> Any:
    """A learning rate for each step: a number if it is constant, else a function of the step.

    Args:
      name: constant; cosine, which falls to 0 at the end; exponential, which falls by `decay_rate`
        per `decay_every`, continuously; or step, which does so in steps.
      learning_rate: its highest value; may be traced.
      steps: length of the run.
      warmup: share of the run in which it rises linearly from 0, in [0, 1); the schedule begins
        after that.
      decay_rate: factor, in (0, 1].
      decay_every: share of the run, in (0, 1].
    """
    begin = min(round(warmup * steps), steps - 1)
    every = max(1, round(decay_every * steps))
    schedules = {
        "constant": lambda: optax.constant_schedule(learning_rate),
        "cosine": lambda: optax.cosine_decay_schedule(learning_rate, steps - begin),
        "exponential": lambda: optax.exponential_decay(learning_rate, every, decay_rate),
        "step": lambda: optax.exponential_decay(learning_rate, every, decay_rate, staircase=True),
    }
    if begin:
        rise = optax.linear_schedule(0.0, learning_rate, begin)
        return optax.join_schedules([rise, schedules[name]()], [begin])
    return learning_rate if name == "constant" else schedules[name]()


def _is_zero(number: Any) -> bool:
    return not isinstance(number, jax.Array) and number == 0


def _kernels(params: Any) -> Any:
    """Which parameters are kernels, as opposed to biases and normalizers' scales."""
    return jax.tree.map(lambda x: x.ndim > 1, params)
