"""The layers under every transform of JAX and Flax give what they give without."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.test_util import check_grads

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


def assert_close(found, right, tolerance=1e-5):
    assert_same(found, right, tolerance, scaled=True)


def stacked(*trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def member(tree, i):
    return jax.tree.map(lambda leaf: leaf[i], tree)


# --- depth: scan and remat ---


class NnxBlock(nnx.Module):
    """A dense layer with a norm."""

    def __init__(self, layer_type, rngs):
        self.dense = nnx.Linear(4, 4, use_bias=False, rngs=rngs)
        self.norm = layer_type(4, rngs=rngs)

    def __call__(self, x):
        return nnx.tanh(self.norm(self.dense(x)))


@pytest.mark.parametrize("layer_type", [bnrepro.nnx.BatchNorm, bnrepro.nnx.BatchRenorm])
def test_nnx_scan_over_recomputed_layers_is_a_loop(layer_type):
    x = jnp.asarray(normal(6, 4, mean=1))
    make = nnx.jit(nnx.vmap(lambda rngs: NnxBlock(layer_type, rngs)))
    blocks = make(nnx.Rngs(0).split(3))
    graph, state = nnx.split(blocks)
    alone = [nnx.merge(graph, member(state, i)) for i in range(3)]

    def scanned(blocks, x):
        recomputed = nnx.remat(lambda x, block: block(x))
        return nnx.scan(recomputed, in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)(x, blocks)

    def looped(blocks, x):
        for block in blocks:
            x = block(x)
        return x

    @functools.partial(nnx.jit, static_argnums=0)
    def step(function, model, x):
        def loss(model):
            y = function(model, x)
            return jnp.sum(y**2), y

        (_, y), gradients = nnx.value_and_grad(loss, has_aux=True)(model)
        return y, nnx.to_pure_dict(gradients)

    y, gradients = step(scanned, blocks, x)
    right_y, right_gradients = step(looped, nnx.List(alone), x)
    assert_close(y, right_y)
    assert_close(gradients, stacked(*right_gradients.values()))
    assert_close(statistics_of(blocks), stacked(*map(statistics_of, alone)))
    assert np.all(blocks.norm.mean[...] != 0)


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


@pytest.mark.parametrize(
    ("layer_type", "trains", "masked", "dtype"),
    [
        (BatchNorm, True, False, np.float64),
        (BatchNorm, True, True, np.float64),
        (BatchNorm, False, False, np.complex128),
        (BatchRenorm, True, False, np.float64),
        (BatchRenorm, True, True, np.complex128),
        (BatchRenorm, False, False, np.float64),
    ],
)
def test_derivatives_of_every_mode_and_order_are_those_by_differences(
    layer_type, trains, masked, dtype
):
    """Of parameters, averages and input at once, through outputs and new averages."""
    # Limits at which r and d stay are constants also to differences.
    layer = layer_type(**{} if layer_type is BatchNorm else {"r_max": 1.01, "d_max": 0.0})
    mask = np.arange(5)[:, None] < 4 if masked else None
    with jax.enable_x64(True):
        x = normal(5, 2, mean=1, std=2).astype(dtype)
        if dtype is np.complex128:
            x += 1j * normal(5, 2, mean=9, seed=9)
        variables = some_variables(layer_type(param_dtype=np.float64), x)
        count = {"count": variables["batch_stats"].pop("count", 0)}

        @jax.jit
        def outputs(variables, x):
            stats = variables["batch_stats"] | (count if layer_type is BatchRenorm else {})
            variables = variables | {"batch_stats": stats}
            if not trains:
                return layer.apply(variables, x, True)
            y, stats = train(layer, variables, x, mask)
            return y, {name: value for name, value in stats.items() if name != "count"}

        check_grads(outputs, (variables, jnp.asarray(x)), order=2)


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
    ("layer_type", "dtype", "tolerance"),
    [(BatchNorm, "float16", 4e-3), (BatchRenorm, "bfloat16", 3e-2)],
)
def test_derivatives_in_half_precision_are_those_in_single(layer_type, dtype, tolerance):
    """Forward and reverse, in the types that JAX prescribes."""
    x, dx, dy = (jnp.asarray(normal(8, 3, mean=1, std=2, seed=k), dtype) for k in range(3))
    layer, variables = layer_type(), some_variables(layer_type(), x)

    @functools.partial(jax.jit, static_argnums=0)
    def seen(computed_in, x, dx, dy):
        def output(params, x):
            return train(layer, {**variables, "params": params}, x.astype(computed_in))[0]

        y, vjp = jax.vjp(output, variables["params"], x)
        zeros = jax.tree.map(jnp.zeros_like, variables["params"])
        _, tangent = jax.jvp(output, (variables["params"], x), (zeros, dx))
        return y, tangent, vjp(dy.astype(y.dtype))

    found = seen(dtype, x, dx, dy)
    assert found[0].dtype == jnp.float32 and found[2][1].dtype == dtype
    assert_close(found, seen("float32", x, dx, dy), tolerance)


@both_layers
def test_parameters_have_a_gradient_for_integers_too(layer_type):
    x, dy = np.random.default_rng(0).integers(-999, 999, (7, 3)), normal(7, 3, seed=1)
    layer = layer_type()
    variables = some_variables(layer, jnp.asarray(x))

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(layer, x):
        def total(params):
            return jnp.sum(dy * train(layer, {**variables, "params": params}, x)[0])

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
