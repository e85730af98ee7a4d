"""The layers under every transform of JAX and Flax give what they give without."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.flatten_util import ravel_pytree
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import bnrepro.nnx
from bnrepro import BatchNorm, BatchRenorm
from bnrepro.comparison.footprint import collectives
from tests.layers.running import (
    assert_same,
    both_layers,
    evaluate,
    normal,
    some_variables,
    statistics_of,
    train,
    train_and_differentiate,
)

both_nnx_layers = pytest.mark.parametrize(
    "layer_type", [bnrepro.nnx.BatchNorm, bnrepro.nnx.BatchRenorm]
)


def assert_close(found, right, tolerance=1e-5):
    assert_same(found, right, tolerance, scaled=True)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


# --- ensembles: vmap ---


class NnxBlock(nnx.Module):
    """A dense layer with a norm."""

    def __init__(self, layer_type, rngs):
        self.dense = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.norm = layer_type(4, rngs=rngs)

    def __call__(self, x):
        return nnx.tanh(self.norm(self.dense(x)))


def nnx_blocks(layer_type, count):
    """Stacked ones, and the same one by one."""
    make = nnx.jit(nnx.vmap(lambda rngs: NnxBlock(layer_type, rngs)))
    blocks = make(nnx.Rngs(0).split(count))
    graph, state = nnx.split(blocks)
    return blocks, [nnx.merge(graph, member(state, i)) for i in range(count)]


def nnx_step(function, model, x):
    """Output, and gradients of its square; the averages move."""

    def loss(model):
        y = function(model, x)
        return jnp.sum(y**2), y

    (_, y), gradients = nnx.value_and_grad(loss, has_aux=True)(model)
    return y, nnx.to_pure_dict(gradients)


@both_nnx_layers
def test_an_ensemble_by_nnx_vmap_is_its_members(layer_type):
    x = jnp.asarray(normal(6, 4, mean=1))
    ensemble, alone = nnx_blocks(layer_type, 2)
    step = functools.partial(nnx_step, NnxBlock.__call__)
    found = nnx.jit(nnx.vmap(step, in_axes=(0, None)))(ensemble, x)
    assert_close(found, stacked(*(nnx.jit(step)(block, x) for block in alone)))
    assert_close(statistics_of(ensemble), stacked(*map(statistics_of, alone)))
    assert np.all(ensemble.norm.mean[...] != 0)


# --- depth: scan and remat ---


@both_nnx_layers
def test_nnx_scan_over_recomputed_layers_is_a_loop(layer_type):
    x = jnp.asarray(normal(6, 4, mean=1))
    blocks, alone = nnx_blocks(layer_type, 3)

    def scanned(blocks, x):
        recomputed = nnx.remat(lambda x, block: block(x))
        return nnx.scan(recomputed, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, blocks)

    def looped(blocks, x):
        for block in blocks:
            x = block(x)
        return x

    step = nnx.jit(nnx_step, static_argnums=0)
    y, gradients = step(scanned, blocks, x)
    right_y, right_gradients = step(looped, nnx.List(alone), x)
    assert_close(y, right_y)
    assert_close(gradients, stacked(*right_gradients.values()))
    assert_close(statistics_of(blocks), stacked(*map(statistics_of, alone)))


# --- devices ---


@pytest.mark.parametrize(
    ("layer_type", "axis_type", "spec"),
    [
        (BatchNorm, AxisType.Auto, P("data", None, "model")),
        (BatchNorm, AxisType.Explicit, P(None, ("data", "model"))),
        (BatchRenorm, AxisType.Explicit, P("data", None, "model")),
        (BatchRenorm, AxisType.Auto, P(None, ("data", "model"))),
    ],
    ids=str,
)
def test_it_does_not_depend_on_how_a_mesh_holds_the_batch(layer_type, spec, axis_type):
    layer = layer_type()
    x, dy = normal(12, 8, 4, mean=100), normal(12, 8, 4, seed=1)
    variables = some_variables(layer, x)
    alone = train_and_differentiate(layer, variables, x, dy)
    evaluated = evaluate(layer, variables, x)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(axis_type,) * 2)
    with jax.set_mesh(mesh):
        held_x, held_dy = (jax.device_put(v, NamedSharding(mesh, spec)) for v in (x, dy))
        features = NamedSharding(mesh, P(*spec[2:]))
        held = jax.tree.map(
            lambda leaf: jax.device_put(leaf, features) if leaf.ndim else leaf, variables
        )
        found = train_and_differentiate(layer, held, held_x, held_dy)
        assert found[0].sharding.is_equivalent_to(held_x.sharding, 3)
        assert_close(jax.device_get(found), jax.device_get(alone), 1e-4)
        assert_close(jax.device_get(evaluate(layer, held, held_x)), jax.device_get(evaluated))


@both_layers
def test_an_explicit_mesh_may_hold_the_mask_in_another_way_than_the_batch(layer_type):
    # Large enough to be summed in slices.
    layer, x, mask = layer_type(), normal(2**14, 8), np.arange(2**14)[:, None] < 10_000
    variables = some_variables(layer, x)
    alone = train(layer, variables, x, mask)
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P(None, ("data", "model"))))
        mask = jax.device_put(mask, NamedSharding(mesh, P("data")))
        assert_close(jax.device_get(train(layer, variables, x, mask)), jax.device_get(alone))


@both_layers
@pytest.mark.parametrize("shares", [(2, 3, 4), (2, 3)], ids=["four each", "one each"])
def test_several_mapped_axes_are_one(layer_type, shares):
    """dm-haiku#788: also if each call sees one example, and has no other axis to reduce."""
    x, dy = normal(*shares, 5, mean=2), normal(*shares, 5, seed=1)
    whole, layer = layer_type(), layer_type(axis_name=("rows", "columns"))
    variables = some_variables(whole, x)
    step = functools.partial(train_and_differentiate, layer, variables)
    y, stats, _, dx = jax.vmap(jax.vmap(step, axis_name="columns"), axis_name="rows")(x, dy)
    right_y, right_stats, _, right_dx = train_and_differentiate(whole, variables, x, dy)
    assert_close((y, member(member(stats, 0), 0), dx), (right_y, right_stats, right_dx))


@pytest.mark.parametrize("check_vma", [False, True])
def test_sharing_statistics_takes_no_more_collectives_than_flax(check_vma):
    x, dy = normal(16, 4), normal(16, 4, seed=1)
    mesh = jax.make_mesh((8,), ("devices",), axis_types=(AxisType.Auto,))

    def exchanges(layer_type):
        layer = layer_type(axis_name="devices")
        variables = some_variables(layer_type(), x)

        def step(x, dy):
            _, stats, _, dx = train_and_differentiate(layer, variables, x, dy)
            return stats, dx

        specs = P("devices"), P("devices")
        step = jax.shard_map(
            step, mesh=mesh, in_specs=specs, out_specs=(P(), specs[1]), check_vma=check_vma
        )
        program = jax.jit(step).lower(x, dy).compile().as_text()
        return sum(kind.number for kind in collectives(program).values())

    flax = exchanges(nn.BatchNorm)
    assert flax > 0
    assert exchanges(BatchNorm) <= flax
    assert exchanges(BatchRenorm) <= flax


# --- derivatives ---


def plain(layer_type, variables, x, trains, mask=None):
    """Output and new averages by the papers' formulas in plain JAX, to be differentiated."""
    axes = tuple(range(x.ndim - 1))
    mask = jnp.broadcast_to(True if mask is None else mask, x.shape)
    gamma, beta, mu, other = (
        jnp.expand_dims(value, axes)
        for value in (
            variables["params"]["scale"],
            variables["params"]["bias"],
            variables["batch_stats"]["mean"],
            variables["batch_stats"]["var" if layer_type is BatchNorm else "std"],
        )
    )
    if not trains:
        sigma = jnp.sqrt(other + 1e-5) if layer_type is BatchNorm else other
        return gamma * (x - mu) / sigma + beta, {}
    m = jnp.sum(mask, axes, keepdims=True)
    mu_b = jnp.sum(jnp.where(mask, x, 0), axes, keepdims=True) / m
    square = jnp.real((x - mu_b) * jnp.conj(x - mu_b))
    var_b = jnp.sum(jnp.where(mask, square, 0), axes, keepdims=True) / m
    sigma_b = jnp.sqrt(var_b + 1e-5)
    x_hat = (x - mu_b) / sigma_b
    new = {"mean": 0.99 * mu + 0.01 * mu_b}
    if layer_type is BatchNorm:
        new["var"] = 0.99 * other + 0.01 * var_b
    else:
        r = jax.lax.stop_gradient(jnp.clip(sigma_b / other, 1 / 3, 3))
        d = jax.lax.stop_gradient((mu_b - mu) / other)
        d = d * jnp.minimum(1, 5 / jnp.abs(d))
        x_hat = x_hat * r + d
        new["std"] = 0.99 * other + 0.01 * sigma_b
    return gamma * x_hat + beta, {name: jnp.squeeze(value, axes) for name, value in new.items()}


def applied(layer_type, variables, x, trains, mask=None):
    """The same of the layer."""
    layer = layer_type()
    if not trains:
        return layer.apply(variables, x, True), {}
    y, stats = train.__wrapped__(layer, variables, x, mask)
    stats.pop("count", None)
    return y, stats


def bent(function, layer_type, variables, x, trains, **given):
    """A scalar function of one vector, not linear in anything: parameters, averages and input."""
    count = {"count": jnp.int32(0)} if layer_type is BatchRenorm else {}
    stats = {name: value for name, value in variables["batch_stats"].items() if name != "count"}
    vector, unravel = ravel_pytree((variables["params"], stats, x))

    def total(vector):
        params, stats, x = unravel(vector)
        y, new = function(
            layer_type,
            {"params": params, "batch_stats": {**stats, **count}},
            x,
            trains,
            **given,
        )
        weights = normal(*y.shape, seed=3)
        return jnp.sum(weights * jnp.sin(y)) + sum(jnp.sum(leaf**2) for leaf in new.values())

    return total, vector


def gradient_and_hessian(second, first, total, vector):
    """By two modes, one over the other."""

    def gradient(vector):
        found = first(total)(vector)
        return found, found

    hessian, found = second(gradient, has_aux=True)(vector)
    return found, hessian


@pytest.mark.parametrize(
    ("layer_type", "trains", "masked", "dtype"),
    [
        (BatchNorm, True, False, np.float32),
        (BatchNorm, True, True, np.float64),
        (BatchNorm, False, False, np.float64),
        (BatchRenorm, True, False, np.float64),
        (BatchRenorm, False, False, np.float32),
    ],
)
def test_derivatives_of_every_mode_and_order_are_those_of_the_formula(
    layer_type, trains, masked, dtype
):
    """Of parameters, averages and input at once, through outputs and new averages."""
    given = {"mask": np.arange(5)[:, None] < 4} if masked else {}
    with jax.enable_x64(dtype is np.float64):
        x = normal(5, 2, mean=1, std=2, dtype=dtype)
        variables = some_variables(layer_type(param_dtype=dtype), x)

        @functools.partial(jax.jit, static_argnums=(0, 1))
        def derivatives(function, modes):
            total, vector = bent(function, layer_type, variables, x, trains, **given)
            assert vector.dtype == dtype
            return [gradient_and_hessian(*over, total, vector) for over in modes]

        (right,) = derivatives(plain, ((jax.jacfwd, jax.jacrev),))
        assert np.max(abs(right[1])) > 1  # so the example is one
        found = derivatives(applied, ((jax.jacfwd, jax.jacrev), (jax.jacrev, jax.jacfwd)))
        assert_close(found, [right] * 2, 1e-4 if dtype is np.float32 else 1e-9)


# --- inputs ---


@both_layers
def test_a_program_for_any_batch_size_may_be_exported(layer_type):
    """Training and its gradients, images included: a symbolic length is longer than any other."""
    layer, shape = layer_type(), (6, 4, 4, 3)
    x, dy = normal(*shape, mean=2), normal(*shape, seed=1)
    variables = some_variables(layer, x)
    (batch,) = export.symbolic_shape("batch")
    like = jax.ShapeDtypeStruct((batch, *shape[1:]), jnp.float32)
    program = functools.partial(train_and_differentiate, layer)
    exported = export.export(jax.jit(program))(variables, like, like)
    assert_close(exported.call(variables, x, dy), program(variables, x, dy), 1e-5)


@both_layers
def test_no_type_is_promoted_silently(layer_type):
    """In the strict mode of JAX, a mask included."""
    x, mask = jnp.asarray(normal(6, 3)), np.arange(6)[:, None] < 4
    layer = layer_type()
    variables = some_variables(layer, x)
    right = train_and_differentiate(layer, variables, x, x, mask)
    with jax.numpy_dtype_promotion("strict"):
        assert_close(train_and_differentiate(layer, variables, x, x, mask), right, 1e-6)


@pytest.mark.parametrize(
    ("layer_type", "trains", "dtype", "tolerance"),
    [
        (BatchNorm, True, "float16", 4e-3),
        (BatchNorm, False, "complex64", 1e-4),
        (BatchRenorm, True, "bfloat16", 3e-2),
        (BatchRenorm, True, "complex64", 1e-4),
    ],
)
def test_inputs_of_other_types_have_the_formulas_derivatives(layer_type, trains, dtype, tolerance):
    """Forward and reverse, in the types that JAX prescribes."""
    x, dx, dy = (normal(8, 3, mean=1, std=2, seed=k) for k in range(3))
    variables = some_variables(layer_type(), jnp.asarray(x))
    if dtype == "complex64":
        # The mean is so far from the moving one that d is shortened.
        x, dx, dy = (v + 1j * normal(8, 3, mean=9, seed=9 + k) for k, v in enumerate((x, dx, dy)))
    x, dx, dy = (jnp.asarray(v).astype(dtype) for v in (x, dx, dy))
    wide = jnp.complex64 if dtype == "complex64" else jnp.float32

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def seen(function, cast, x, dx, dy):
        def output(params, x):
            x = x.astype(wide) if cast else x
            return function(layer_type, {**variables, "params": params}, x, trains)[0]

        y, vjp = jax.vjp(output, variables["params"], x)
        zeros = jax.tree.map(jnp.zeros_like, variables["params"])
        _, tangent = jax.jvp(output, (variables["params"], x), (zeros, dx))
        return y, tangent, vjp(dy.astype(y.dtype))

    found, right = seen(applied, False, x, dx, dy), seen(plain, True, x, dx, dy)
    assert found[0].dtype == wide and found[2][1].dtype == x.dtype
    assert_close(found, right, tolerance)


@both_layers
def test_parameters_have_a_gradient_for_integers_too(layer_type):
    x, dy = np.random.default_rng(0).integers(-999, 999, (7, 3)), normal(7, 3, seed=1)
    layer = layer_type()
    variables = some_variables(layer, jnp.asarray(x))

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(layer, x):
        def total(params):
            return jnp.sum(dy * train.__wrapped__(layer, {**variables, "params": params}, x)[0])

        return jax.grad(total)(variables["params"])

    # The same numbers as floating-point ones.
    assert_close(gradients(layer, jnp.asarray(x)), gradients(layer, jnp.float32(x)), 1e-6)


def test_what_a_mask_hides_stays_out_of_forward_derivatives():
    """The NaN may be anything: the derivatives are those with a zero in its place."""
    mask = np.array([[True], [True], [True], [False]])
    x = np.float32([[1], [2], [4], [np.nan]])
    layer = BatchNorm()
    variables = some_variables(layer, x)

    def first(x):
        y, _ = train(layer, variables, x, mask)
        return y[0, 0]

    found = jax.jacfwd(first)(jnp.asarray(x))
    right = jax.jacfwd(first)(jnp.asarray(np.nan_to_num(x)))
    assert np.all(right[:3] != 0)
    np.testing.assert_allclose(found[:3], right[:3], rtol=1e-5)
