"""The implementations that `scripts.conformance` compares, each behind the same few methods.

All but ours and Flax are imported when their layers are made, so that only those need be there.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bnrepro
import bnrepro.nnx
from tests.layers.golden import BETA, D_MAX, EPSILON, GAMMA, MOMENTUM, R_MAX


class Settings(NamedTuple):
    """What varies between layers of an implementation."""

    warmup: int  # steps of Batch Norm before the full limits; in ours, the paper's ramp if not 0
    dtype: str  # of inputs: "float32" or "bfloat16"


def _float64(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


class _Jax:
    """A layer that is a pure function of its state, a tree of arrays.

    Arrays are [batch, length, features], masks [batch, length].
    """

    def __init__(self, settings: Settings, state: Any):
        self.dtype, self.state = settings.dtype, state

        def step(state: Any, x: Any, dy: Any, mask: Any) -> Any:
            y, gradient, state = jax.vjp(
                lambda x: self.apply(state, x, mask, training=True), x, has_aux=True
            )
            return y, gradient(dy.astype(y.dtype))[0], state

        self._step = jax.jit(step)

    def apply(self, state: Any, x: Any, mask: Any, *, training: bool) -> Any:
        """The output and the new state."""
        raise NotImplementedError

    def statistics(self) -> dict[str, np.ndarray]:
        """The moving `mean`, and `var` or `std`, whichever is stored."""
        raise NotImplementedError

    def train(self, x: np.ndarray, dy: np.ndarray, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        """One training step: the output for `x`, and the gradient of sum(dy * output) of `x`."""
        y, dx, self.state = self._step(self.state, self._array(x), dy, mask)
        return _float64(y), _float64(dx)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """The output for `x` in evaluation mode."""
        return _float64(self.apply(self.state, self._array(x), None, training=False)[0])

    def resume(self, saved: Any) -> None:
        """Loads what another such layer has saved."""
        arrays = [np.array(leaf) for leaf in jax.tree.leaves(saved.state)]
        self.state = jax.tree.unflatten(jax.tree.structure(self.state), arrays)

    def _array(self, x: np.ndarray) -> Any:
        return jnp.asarray(x, self.dtype)


def _as_flax_wants(mask: Any) -> dict[str, Any]:
    return {} if mask is None else {"mask": mask[..., None]}


def _stored(stats: Any) -> dict[str, np.ndarray]:
    return {name: _float64(stats[name]) for name in ("mean", "var", "std") if name in stats}


class _Linen(_Jax):
    """A layer of flax.linen, or one with its interface."""

    def __init__(self, cls: Any, settings: Settings, **options: Any):
        self.module = cls(momentum=MOMENTUM, epsilon=EPSILON, **options)
        like = np.zeros((2, 2, GAMMA.size), np.float32)
        variables = self.module.init(jax.random.key(0), like, use_running_average=False)
        params = {"scale": np.float32(GAMMA), "bias": np.float32(BETA)}
        super().__init__(settings, {**variables, "params": params})

    def apply(self, state: Any, x: Any, mask: Any, *, training: bool) -> Any:
        y, updated = self.module.apply(
            state,
            x,
            use_running_average=not training,
            mutable=["batch_stats"],
            **_as_flax_wants(mask),
        )
        return y, {**state, **updated}

    def statistics(self) -> dict[str, np.ndarray]:
        return _stored(self.state["batch_stats"])


class _Nnx(_Jax):
    """A layer of flax.nnx, or one with its interface."""

    def __init__(self, cls: Any, settings: Settings, **options: Any):
        options |= {"momentum": MOMENTUM, "epsilon": EPSILON}
        layer = cls(GAMMA.size, rngs=nnx.Rngs(0), **options)
        layer.scale[...] = np.float32(GAMMA)
        layer.bias[...] = np.float32(BETA)
        self.graph, state = nnx.split(layer)
        super().__init__(settings, state)

    def apply(self, state: Any, x: Any, mask: Any, *, training: bool) -> Any:
        layer = nnx.merge(self.graph, state, copy=True)
        y = layer(x, use_running_average=not training, **_as_flax_wants(mask))
        return y, nnx.state(layer)

    def statistics(self) -> dict[str, np.ndarray]:
        return _stored(nnx.to_pure_dict(self.state))


class _Keras(_Jax):
    """A layer of Keras 3 on its JAX backend."""

    def __init__(self, settings: Settings, **options: Any):
        os.environ["KERAS_BACKEND"] = "jax"  # read when Keras is imported
        import keras

        self.layer = keras.layers.BatchNormalization(momentum=MOMENTUM, epsilon=EPSILON, **options)
        self.layer.build((None, 2, GAMMA.size))
        self.layer.gamma.assign(GAMMA)
        self.layer.beta.assign(BETA)
        groups = self.layer.trainable_variables, self.layer.non_trainable_variables
        super().__init__(settings, [[variable.value for variable in group] for group in groups])

    def apply(self, state: Any, x: Any, mask: Any, *, training: bool) -> Any:
        y, others = self.layer.stateless_call(*state, x, training=training, mask=mask)
        return y, [state[0], others]

    def statistics(self) -> dict[str, np.ndarray]:
        names = (variable.name for variable in self.layer.non_trainable_variables)
        stats = {name: _float64(v) for name, v in zip(names, self.state[1], strict=True)}
        if self.layer.renorm:
            return {"mean": stats["renorm_mean"], "std": stats["renorm_stddev"]}
        return {"mean": stats["moving_mean"], "var": stats["moving_variance"]}


class _Equinox(_Jax):
    """Equinox's layer, which sees one example [features, length] of a mapped batch."""

    def __init__(self, settings: Settings):
        import equinox as eqx

        layer, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
            GAMMA.size,
            axis_name="batch",
            eps=EPSILON,
            momentum=MOMENTUM,
            mode="batch",
        )
        affine = np.float32(GAMMA), np.float32(BETA)
        self.layer = eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, affine)
        super().__init__(settings, state)

    def apply(self, state: Any, x: Any, mask: Any, *, training: bool) -> Any:
        import equinox as eqx

        layer = eqx.nn.inference_mode(self.layer, value=not training)
        mapped = jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
        y, state = mapped(x.swapaxes(1, 2), state)
        return y.swapaxes(1, 2), state

    def statistics(self) -> dict[str, np.ndarray]:
        mean, var = self.state.get(self.layer.batch_state_index)
        return {"mean": _float64(mean), "var": _float64(var)}


class _Torch:
    """A layer of PyTorch for inputs [batch, features, length]."""

    def __init__(self, settings: Settings, layer: Any):
        import torch

        self.layer, self.dtype = layer, getattr(torch, settings.dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(GAMMA))
            layer.bias.copy_(torch.tensor(BETA))

    def train(self, x: np.ndarray, dy: np.ndarray, mask: Any) -> tuple[np.ndarray, np.ndarray]:
        inputs = self._tensor(x).requires_grad_()
        y = self.layer.train()(inputs)
        y.backward(self._tensor(dy).to(y.dtype))
        return self._array(y), self._array(inputs.grad)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        return self._array(self.layer.eval()(self._tensor(x)))

    def statistics(self) -> dict[str, np.ndarray]:
        stats = {"mean": self.layer.running_mean, "var": self.layer.running_var}
        return {name: _float64(value.clone()) for name, value in stats.items()}

    def resume(self, saved: Any) -> None:
        self.layer.load_state_dict(saved.layer.state_dict())

    def _tensor(self, x: np.ndarray) -> Any:
        import torch

        return torch.tensor(x.swapaxes(1, 2), dtype=self.dtype)

    def _array(self, y: Any) -> np.ndarray:
        return _float64(y.detach().double()).swapaxes(1, 2)


Layer = _Jax | _Torch


def _ours(adapter: Callable[..., Layer], settings: Settings) -> Layer:
    limits = {"r_max": R_MAX, "d_max": D_MAX}
    if not settings.warmup:
        return adapter(settings, **limits)
    ends = {"warmup": 5 / 30, "r_max_end": 20 / 30, "d_max_end": 15 / 30}
    schedules = bnrepro.renorm_schedules(30, **limits, **ends)
    return adapter(settings, **dict(zip(limits, schedules, strict=True)))


def _keras_renorm(settings: Settings) -> Layer:
    limits = {"rmax": R_MAX, "rmin": 1 / R_MAX, "dmax": D_MAX}
    return _Keras(settings, renorm=True, renorm_clipping=limits, renorm_momentum=MOMENTUM)


def _torch(settings: Settings) -> Layer:
    from torch.nn import BatchNorm1d

    return _Torch(settings, BatchNorm1d(GAMMA.size, EPSILON, 1 - MOMENTUM))


def _sbx(settings: Settings) -> Layer:
    from sbx.common.jax_layers import BatchRenorm

    # Its limits are constants of the code, R_MAX and D_MAX.
    return _Linen(BatchRenorm, settings, warmup_steps=settings.warmup)


def _torchrl(settings: Settings) -> Layer:
    from torchrl.modules.models.batchrenorm import BatchRenorm1d

    layer = BatchRenorm1d(
        GAMMA.size,
        momentum=1 - MOMENTUM,
        eps=EPSILON,
        max_r=R_MAX,
        max_d=D_MAX,
        warmup_steps=settings.warmup,
    )
    return _Torch(settings, layer)


class Implementation(NamedTuple):
    """A row of the table."""

    name: str
    package: str  # that pip installs
    make: Callable[[Settings], Layer]
    renorm: bool = False
    # The rule of tests/layers/golden.py that it follows by design, if not the papers'.
    own_rule: str | None = None
    warmup: str | None = None  # "switch": Batch Norm until a step; "ramp": the paper's
    masks: bool = False


_OURS: dict[str, Any] = {"renorm": True, "warmup": "ramp", "masks": True}
_SWITCHED: dict[str, Any] = {"renorm": True, "warmup": "switch"}
_LINEN = partial(_ours, partial(_Linen, bnrepro.BatchRenorm))
_NNX = partial(_ours, partial(_Nnx, bnrepro.nnx.BatchRenorm))

IMPLEMENTATIONS = (
    Implementation("bnrepro.BatchNorm", "bnrepro", partial(_Linen, bnrepro.BatchNorm), masks=True),
    Implementation(
        "bnrepro.nnx.BatchNorm", "bnrepro", partial(_Nnx, bnrepro.nnx.BatchNorm), masks=True
    ),
    Implementation("flax.linen.BatchNorm", "flax", partial(_Linen, nn.BatchNorm), masks=True),
    Implementation("flax.nnx.BatchNorm", "flax", partial(_Nnx, nnx.BatchNorm), masks=True),
    Implementation("keras BatchNormalization", "keras", _Keras, masks=True),
    Implementation("equinox.nn.BatchNorm", "equinox", _Equinox, own_rule="batch_norm from zero"),
    Implementation("torch.nn.BatchNorm1d", "torch", _torch, own_rule="batch_norm unbiased"),
    Implementation("bnrepro.BatchRenorm", "bnrepro", _LINEN, **_OURS),
    Implementation("bnrepro.nnx.BatchRenorm", "bnrepro", _NNX, **_OURS),
    Implementation(
        "keras BatchNormalization(renorm=True)", "keras", _keras_renorm, renorm=True, masks=True
    ),
    Implementation("sbx BatchRenorm", "sbx-rl", _sbx, own_rule="batch_renorm var", **_SWITCHED),
    Implementation(
        "torchrl BatchRenorm1d", "torchrl", _torchrl, own_rule="batch_renorm unbiased", **_SWITCHED
    ),
)
