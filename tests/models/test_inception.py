"""Inception-v3 against the paper's table of layers, and Keras' number of parameters."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from bnrepro.comparison.keys import CHANNELS, STEMS
from bnrepro.models import inception, make_normalizer
from bnrepro.models.inception import Inception
from tests.models.test_models import SETTINGS, abstract, named


def network(normalizer="batch_norm", classes=1_000, **fields):
    """With gamma fixed, as in [BRN]."""
    norm = make_normalizer(normalizer, use_scale=False, **SETTINGS)
    return Inception(classes, nn.relu, norm, nn.initializers.lecun_normal(), **fields)


@pytest.fixture(scope="module")
def of_the_paper():
    return abstract(network(), 2, 299, 299, 3)


def test_parameters_and_statistics_are_as_many_as_those_of_keras(of_the_paper):
    """keras.applications.InceptionV3: 23,851,784 numbers, of which 34,432 are not trained."""
    variables, _ = of_the_paper
    sizes = {kind: sum(x.size for x in jax.tree.leaves(variables[kind])) for kind in variables}
    assert sizes == {"params": 23_817_352, "batch_stats": 34_432}


def test_every_stage_has_the_shape_of_the_papers_table(of_the_paper):
    """Table 1 of arXiv:1512.00567, whose last stage is the first of 2,048 channels."""
    _, out = of_the_paper
    grids = {
        (35, 35, 192): ["stem"],
        (35, 35, 256): ["mixed_0"],
        (35, 35, 288): ["mixed_1", "mixed_2"],
        (17, 17, 768): ["mixed_3", "mixed_4", "mixed_5", "mixed_6", "mixed_7"],
        (8, 8, 1_280): ["mixed_8"],
        (8, 8, 2_048): ["mixed_9", "mixed_10"],
    }
    found = {name: out[name].shape[1:] for name in ("stem", *inception.BLOCKS)}
    assert found == {name: shape for shape, names in grids.items() for name in names}


@pytest.mark.parametrize(
    "stride", [2, *(pytest.param(stride, marks=pytest.mark.slow) for stride in (4, 8))]
)
@pytest.mark.usefixtures("shallow")
def test_the_smallest_image_that_a_stem_takes_leaves_one_position(stride):
    model, smallest = network(stem_stride=stride, width=1 / 16), STEMS["inception"][stride]
    for size, left in ((smallest, 1), (smallest - 1, 0)):
        assert abstract(model, 2, size, size, 3)[1]["mixed_8"].shape[:3] == (2, left, left)


@pytest.mark.usefixtures("shallow")
def test_width_multiplies_the_channels_and_nothing_else():
    _, out = abstract(network(stem_stride=4, width=0.25), 2, 64, 64, 3)
    assert out["stem"].shape == (2, 16, 16, 48) and out["mixed_8"].shape == (2, 3, 3, 320)


def test_the_inputs_of_all_nonlinearities_are_named(of_the_paper):
    _, out = of_the_paper
    norms = {name for name in out if name.rpartition("/")[2].startswith("norm")}
    assert set(network().nonlinearity_inputs()) == norms
    assert len(norms) == 94  # as many as Inception-v3 has convolutions


def test_the_config_knows_the_channels_and_the_stems(of_the_paper):
    variables, _ = of_the_paper
    found = {x.shape[-1] for x in jax.tree.leaves(variables["batch_stats"])}
    assert found == set(CHANNELS["inception"])
    assert STEMS["inception"].keys() == inception.STEMS.keys()


@pytest.fixture
def small(shallow):
    """A narrow network with an auxiliary head, the shapes of its variables, and images."""
    model = network("batch_renorm", classes=3, width=1 / 16, stem_stride=2, auxiliary=True)
    images = jnp.zeros((2, 13, 13, 3))
    init = partial(model.init, jax.random.key(0), train=True)
    return model, jax.eval_shape(init, images), images


def test_the_auxiliary_head_gives_logits_in_training_alone(small):
    model, variables, images = small
    assert abstract(model, *images.shape)[1]["auxiliary_logits"].shape == (2, 3)
    evaluate = partial(model.apply, train=False, mutable=["intermediates"])
    assert jax.eval_shape(evaluate, variables, images)[1] == {}


def test_activations_are_recomputed_on_demand_and_variables_keep_their_names(small):
    model, variables, images = small
    recomputing = model.clone(remat=True)
    init = partial(recomputing.init, jax.random.key(0), train=True)
    assert jax.eval_shape(init, images) == variables

    def recomputed(model):
        apply = partial(model.apply, train=False)
        program = jax.make_jaxpr(apply)(variables, images)
        names = [equation.primitive.name for equation in program.eqns]
        return sum(name in ("checkpoint", "remat2") for name in names)

    assert (recomputed(model), recomputed(recomputing)) == (0, 4)


def test_zero_means_the_papers_stem():
    strides = {name: named(name).stem_stride for name in ("inception", "resnet")}
    assert strides == {"inception": 8, "resnet": 4}
