"""The implementations that `scripts.conformance` compares, each behind the same few methods.

Libraries are imported when one of their layers is made, so that a missing one is only missed then.
Inputs are NumPy arrays [batch, length, features]; some libraries want [batch, features, length].
"""

import functools
import importlib.metadata
import importlib.util
import io
import os
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np


class Settings(NamedTuple):
    """What a layer is made with; limits of r and d for Batch Renorm only."""

    momentum: float  # decay of the averages
    epsilon: float
    gamma: np.ndarray
    beta: np.ndarray
    r_max: float
    d_max: float
    warmup: int  # steps of Batch Norm first; 0 for none
    ramp: tuple[int, int, int, int] | None  # steps in all, of Batch Norm, until r_max, until d_max
    dtype: str  # of inputs: "float32" or "bfloat16"


class Layer(Protocol):
    """One implementation's layer and its state."""

    def train(
        self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """One training step: the output for `x`, and the gradient of sum(dy * output) of `x`."""

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """The moving mean, and the moving variance or (where that is stored) deviation."""

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        """The output for `x` in evaluation mode."""

    def save(self) -> Any:
        """The whole state, the way the library saves it."""

    def load(self, saved: Any) -> None:
        """Takes over a state that `save` of another layer gave."""


class Implementation(NamedTuple):
    """A row of the table."""

    name: str
    package: str  # as installed
    module: str  # whose presence tells that it is installed
    make: Callable[[Settings], Layer]
    renorm: bool = False
    averages: str = "var"  # what `Layer.statistics` gives second: "var" or "std"
    # The rule of the golden file that it follows by design where that is not the papers'.
    own_rule: str | None = None
    warmup: str | None = None  # "switch": Batch Norm until a step; "ramp": the paper's; or none
    masks: bool = False

    def version(self) -> str | None:
        """The installed version, or None."""
        try:
            found = importlib.util.find_spec(self.module)
            return importlib.metadata.version(self.package) if found else None
        except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError):
            return None


def _numpy(values: Any) -> np.ndarray:
    return np.asarray(values, np.float64)


class _Linen:
    """A layer of flax.linen, or one with its interface."""

    def __init__(self, module: Any, settings: Settings):
        import jax.numpy as jnp
        from jax import random

        self.module, self.dtype = module, settings.dtype
        like = jnp.zeros((2, 2, settings.gamma.size), self.dtype)
        variables = module.init(random.key(0), like, use_running_average=False)
        params = {"scale": jnp.float32(settings.gamma), "bias": jnp.float32(settings.beta)}
        self.variables = {**variables, "params": params}

    def train(
        self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        import jax.numpy as jnp

        options = {} if mask is None else {"mask": mask[..., None]}
        y, dx, stats = _compiled_linen_step()(
            self.module, self.variables, jnp.asarray(x, self.dtype), dy, options
        )
        self.variables = {**self.variables, **stats}
        return _numpy(y), _numpy(dx)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        stats = self.variables["batch_stats"]
        return _numpy(stats["mean"]), _numpy(stats["std" if "std" in stats else "var"])

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        import jax.numpy as jnp

        x = jnp.asarray(x, self.dtype)
        return _numpy(self.module.apply(self.variables, x, use_running_average=True))

    def save(self) -> Any:
        from flax import serialization

        return serialization.to_bytes(self.variables)

    def load(self, saved: Any) -> None:
        from flax import serialization

        self.variables = serialization.from_bytes(self.variables, saved)


@functools.cache
def _compiled_linen_step() -> Callable[..., Any]:
    """One function for all modules: equal ones with inputs of one shape are compiled once."""
    import jax

    def step(module: Any, variables: Any, x: Any, dy: Any, options: Any) -> Any:
        def forward(x: Any) -> Any:
            return module.apply(
                variables, x, use_running_average=False, mutable=["batch_stats"], **options
            )

        y, gradient, stats = jax.vjp(forward, x, has_aux=True)
        return y, gradient(dy.astype(y.dtype))[0], stats

    return jax.jit(step, static_argnums=0)


class _Nnx:
    """A layer of flax.nnx, or one with its interface."""

    def __init__(self, layer: Any, settings: Settings):
        import jax.numpy as jnp

        self.layer, self.dtype = layer, settings.dtype
        layer.scale[...] = jnp.float32(settings.gamma)
        layer.bias[...] = jnp.float32(settings.beta)

    def train(
        self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        import jax.numpy as jnp

        options = {} if mask is None else {"mask": jnp.asarray(mask[..., None])}
        y, dx = _compiled_nnx_step()(self.layer, jnp.asarray(x, self.dtype), dy, options)
        return _numpy(y), _numpy(dx)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        second = self.layer.std if hasattr(self.layer, "std") else self.layer.var
        return _numpy(self.layer.mean[...]), _numpy(second[...])

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        import jax.numpy as jnp

        return _numpy(self.layer(jnp.asarray(x, self.dtype), use_running_average=True))

    def save(self) -> Any:
        import jax
        from flax import nnx

        return jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(self.layer)))

    def load(self, saved: Any) -> None:
        from flax import nnx

        state = nnx.state(self.layer)
        nnx.replace_by_pure_dict(state, saved)
        nnx.update(self.layer, state)


@functools.cache
def _compiled_nnx_step() -> Callable[..., Any]:
    import jax.numpy as jnp
    from flax import nnx

    def step(layer: Any, x: Any, dy: Any, options: Any) -> Any:
        def loss(layer: Any, x: Any) -> Any:
            y = layer(x, use_running_average=False, **options)
            return jnp.sum(dy * y.astype(jnp.float32)), y

        dx, y = nnx.grad(loss, argnums=1, has_aux=True)(layer, x)
        return y, dx

    return nnx.jit(step)


class _Torch:
    """A layer of PyTorch for inputs [batch, features, length]."""

    def __init__(self, layer: Any, settings: Settings):
        import torch

        self.layer, self.dtype = layer, getattr(torch, settings.dtype)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor(settings.gamma))
            layer.bias.copy_(torch.tensor(settings.beta))

    def train(
        self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        self.layer.train()
        inputs = self._tensor(x).requires_grad_()
        y = self.layer(inputs)
        y.backward(self._tensor(dy).to(y.dtype))
        return self._array(y), self._array(inputs.grad)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(self.layer.running_mean), _numpy(self.layer.running_var)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        self.layer.eval()
        return self._array(self.layer(self._tensor(x)))

    def save(self) -> Any:
        import torch

        file = io.BytesIO()
        torch.save(self.layer.state_dict(), file)
        return file.getvalue()

    def load(self, saved: Any) -> None:
        import torch

        self.layer.load_state_dict(torch.load(io.BytesIO(saved)))

    def _tensor(self, x: np.ndarray) -> Any:
        import torch

        return torch.tensor(x.transpose(0, 2, 1), dtype=self.dtype)

    def _array(self, y: Any) -> np.ndarray:
        return _numpy(y.detach().double()).transpose(0, 2, 1)


class _Keras:
    """A layer of Keras 3 on its JAX backend."""

    def __init__(self, settings: Settings, **options: Any):
        # Read at the import; whoever has imported it with another backend is told by the gradient.
        os.environ.setdefault("KERAS_BACKEND", "jax")
        import jax
        import keras

        self.dtype = settings.dtype
        self.layer = keras.layers.BatchNormalization(
            momentum=settings.momentum, epsilon=settings.epsilon, **options
        )
        self.layer.build((None, 2, settings.gamma.size))
        self.layer.gamma.assign(settings.gamma)
        self.layer.beta.assign(settings.beta)

        def step(weights: Any, state: Any, x: Any, dy: Any, mask: Any) -> Any:
            def forward(x: Any) -> Any:
                return self.layer.stateless_call(weights, state, x, training=True, mask=mask)

            y, gradient, state = jax.vjp(forward, x, has_aux=True)
            return y, gradient(dy.astype(y.dtype))[0], state

        self.step = jax.jit(step)

    def train(
        self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        import jax.numpy as jnp

        weights = [variable.value for variable in self.layer.trainable_variables]
        state = [variable.value for variable in self.layer.non_trainable_variables]
        y, dx, state = self.step(weights, state, jnp.asarray(x, self.dtype), dy, mask)
        for variable, value in zip(self.layer.non_trainable_variables, state, strict=True):
            variable.assign(value)
        return _numpy(y), _numpy(dx)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        if self.layer.renorm:
            return _numpy(self.layer.renorm_mean), _numpy(self.layer.renorm_stddev)
        return _numpy(self.layer.moving_mean), _numpy(self.layer.moving_variance)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        import jax.numpy as jnp

        return _numpy(self.layer(jnp.asarray(x, self.dtype), training=False))

    def save(self) -> Any:
        return self.layer.get_weights()

    def load(self, saved: Any) -> None:
        self.layer.set_weights(saved)


class _Equinox:
    """Equinox's layer, which sees one example [features, length] of a mapped batch."""

    def __init__(self, settings: Settings):
        import equinox as eqx
        import jax
        import jax.numpy as jnp

        self.dtype = settings.dtype
        layer, self.state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(
            settings.gamma.size,
            axis_name="batch",
            eps=settings.epsilon,
            momentum=settings.momentum,
            mode="batch",
        )
        affine = jnp.float32(settings.gamma), jnp.float32(settings.beta)
        self.layer = eqx.tree_at(lambda layer: (layer.weight, layer.bias), layer, affine)

        @eqx.filter_jit
        def step(layer: Any, state: Any, x: Any, dy: Any) -> Any:
            y, gradient, state = jax.vjp(lambda x: self._mapped(layer, x, state), x, has_aux=True)
            return y, gradient(dy.astype(y.dtype))[0], state

        self.step = step

    @staticmethod
    def _mapped(layer: Any, x: Any, state: Any) -> Any:
        import jax

        return jax.vmap(layer, axis_name="batch", in_axes=(0, None), out_axes=(0, None))(x, state)

    def train(
        self, x: np.ndarray, dy: np.ndarray, mask: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        y, dx, self.state = self.step(self.layer, self.state, self._array(x), dy.transpose(0, 2, 1))
        return _numpy(y).transpose(0, 2, 1), _numpy(dx).transpose(0, 2, 1)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        mean, var = self.state.get(self.layer.batch_state_index)
        return _numpy(mean), _numpy(var)

    def evaluate(self, x: np.ndarray) -> np.ndarray:
        import equinox as eqx

        layer = eqx.nn.inference_mode(self.layer)
        return _numpy(self._mapped(layer, self._array(x), self.state)[0]).transpose(0, 2, 1)

    def save(self) -> Any:
        import equinox as eqx

        file = io.BytesIO()
        eqx.tree_serialise_leaves(file, (self.layer, self.state))
        return file.getvalue()

    def load(self, saved: Any) -> None:
        import equinox as eqx

        self.layer, self.state = eqx.tree_deserialise_leaves(
            io.BytesIO(saved), (self.layer, self.state)
        )

    def _array(self, x: np.ndarray) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(x.transpose(0, 2, 1), self.dtype)


def _common(settings: Settings) -> dict[str, Any]:
    return {"momentum": settings.momentum, "epsilon": settings.epsilon}


def _limits(settings: Settings) -> dict[str, Any]:
    """Ours: numbers, or the schedules that the package makes of the paper's ramp."""
    if settings.ramp is None:
        return {"r_max": settings.r_max, "d_max": settings.d_max}
    return dict(zip(("r_max", "d_max"), _schedules(settings), strict=True))


@functools.cache
def _ramp(r_max: float, d_max: float, ramp: tuple[int, int, int, int]) -> Any:
    """The same functions each time, so that equal layers are compiled once."""
    from bnrepro import renorm_schedules

    steps, warmup, r_max_end, d_max_end = ramp
    return renorm_schedules(
        steps,
        r_max=r_max,
        d_max=d_max,
        warmup=warmup / steps,
        r_max_end=r_max_end / steps,
        d_max_end=d_max_end / steps,
    )


def _schedules(settings: Settings) -> Any:
    assert settings.ramp is not None
    return _ramp(settings.r_max, settings.d_max, settings.ramp)


def _bnrepro_batch_norm(settings: Settings) -> Layer:
    import bnrepro

    return _Linen(bnrepro.BatchNorm(**_common(settings)), settings)


def _bnrepro_batch_renorm(settings: Settings) -> Layer:
    import bnrepro

    return _Linen(bnrepro.BatchRenorm(**_common(settings), **_limits(settings)), settings)


def _bnrepro_nnx_batch_norm(settings: Settings) -> Layer:
    from bnrepro import nnx as layers
    from flax import nnx

    layer = layers.BatchNorm(settings.gamma.size, rngs=nnx.Rngs(0), **_common(settings))
    return _Nnx(layer, settings)


def _bnrepro_nnx_batch_renorm(settings: Settings) -> Layer:
    from bnrepro import nnx as layers
    from flax import nnx

    options = {**_common(settings), **_limits(settings)}
    return _Nnx(layers.BatchRenorm(settings.gamma.size, rngs=nnx.Rngs(0), **options), settings)


def _linen_batch_norm(settings: Settings) -> Layer:
    import flax.linen as nn

    return _Linen(nn.BatchNorm(**_common(settings)), settings)


def _nnx_batch_norm(settings: Settings) -> Layer:
    from flax import nnx

    layer = nnx.BatchNorm(settings.gamma.size, rngs=nnx.Rngs(0), **_common(settings))
    return _Nnx(layer, settings)


def _keras_batch_renorm(settings: Settings) -> Layer:
    limits = {"rmax": settings.r_max, "rmin": 1 / settings.r_max, "dmax": settings.d_max}
    return _Keras(settings, renorm=True, renorm_clipping=limits, renorm_momentum=settings.momentum)


def _torch_batch_norm(settings: Settings) -> Layer:
    import torch

    layer = torch.nn.BatchNorm1d(
        settings.gamma.size, eps=settings.epsilon, momentum=1 - settings.momentum
    )
    return _Torch(layer, settings)


def _sbx_batch_renorm(settings: Settings) -> Layer:
    from sbx.common.jax_layers import BatchRenorm

    # Its limits are constants of the code, the 3 and 5 of the golden vectors.
    return _Linen(BatchRenorm(**_common(settings), warmup_steps=settings.warmup), settings)


def _torchrl_batch_renorm(settings: Settings) -> Layer:
    from torchrl.modules.models.batchrenorm import BatchRenorm1d

    layer = BatchRenorm1d(
        settings.gamma.size,
        momentum=1 - settings.momentum,
        eps=settings.epsilon,
        max_r=settings.r_max,
        max_d=settings.d_max,
        warmup_steps=settings.warmup,
    )
    return _Torch(layer, settings)


IMPLEMENTATIONS = (
    Implementation("bnrepro.BatchNorm", "bnrepro", "bnrepro", _bnrepro_batch_norm, masks=True),
    Implementation(
        "bnrepro.nnx.BatchNorm", "bnrepro", "bnrepro.nnx", _bnrepro_nnx_batch_norm, masks=True
    ),
    Implementation("flax.linen.BatchNorm", "flax", "flax", _linen_batch_norm, masks=True),
    Implementation("flax.nnx.BatchNorm", "flax", "flax", _nnx_batch_norm, masks=True),
    Implementation("keras.layers.BatchNormalization", "keras", "keras", _Keras, masks=True),
    Implementation(
        "equinox.nn.BatchNorm", "equinox", "equinox", _Equinox, own_rule="batch_norm from zero"
    ),
    Implementation(
        "torch.nn.BatchNorm1d", "torch", "torch", _torch_batch_norm, own_rule="batch_norm unbiased"
    ),
    Implementation(
        "bnrepro.BatchRenorm",
        "bnrepro",
        "bnrepro",
        _bnrepro_batch_renorm,
        renorm=True,
        averages="std",
        warmup="ramp",
        masks=True,
    ),
    Implementation(
        "bnrepro.nnx.BatchRenorm",
        "bnrepro",
        "bnrepro.nnx",
        _bnrepro_nnx_batch_renorm,
        renorm=True,
        averages="std",
        warmup="ramp",
        masks=True,
    ),
    Implementation(
        "keras.layers.BatchNormalization(renorm=True)",
        "keras",
        "keras",
        _keras_batch_renorm,
        renorm=True,
        averages="std",
        masks=True,
    ),
    Implementation(
        "sbx.common.jax_layers.BatchRenorm",
        "sbx-rl",
        "sbx",
        _sbx_batch_renorm,
        renorm=True,
        own_rule="batch_renorm var",
        warmup="switch",
    ),
    Implementation(
        "torchrl.modules.BatchRenorm1d",
        "torchrl",
        "torchrl",
        _torchrl_batch_renorm,
        renorm=True,
        own_rule="batch_renorm unbiased",
        warmup="switch",
    ),
)
