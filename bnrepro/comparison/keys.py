"""The keys of a config: allowed values, defaults and meanings.

Nothing here imports JAX, so the names that data, models and training know are repeated.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from bnrepro.errors import UserError, nearest

AUGMENTATIONS = ("crop", "inception", "none")
ACTIVATIONS = ("identity", "relu", "sigmoid", "tanh", "tlu")
DTYPES = ("bfloat16", "float32")
INITIALIZERS = ("lecun_normal", "normal")
KERNELS = ("centred", "plain", "standardized")
MEASURES = (
    "along_gradient", "gradient_norms", "near_linear", "normalizer_outputs", "parameter_norms",
    "sigmoid_input", "sigmoid_inputs",
)  # fmt: skip
NETWORKS = ("cnn", "inception", "mlp", "resnet")
NORMALIZERS = (
    "batch_norm", "batch_norm_stop_gradient", "batch_renorm", "evonorm_s0", "filter_response_norm",
    "group_norm", "layer_norm", "moving_average_batch_norm", "moving_average_norm", "none",
)  # fmt: skip
OPTIMIZERS = ("adam", "rmsprop", "sgd")
PLACEMENTS = ("after", "before", "both")
SAMPLERS = ("epochs", "labels", "with_replacement")
SCHEDULES = ("constant", "cosine", "exponential", "step")
# Channels that are normalized in the networks whose `model.width` multiplies them. (All others of
# a resnet are multiples of the first.)
CHANNELS = {"inception": (32, 48, 64, 80, 96, 128, 160, 192, 320, 384, 448), "resnet": (64,)}
AUXILIARY_CHANNELS = 768  # those of inception's auxiliary head that are not among the above
# Strides of the stem that each network has, the paper's first, and the smallest images they take.
STEMS = {"inception": {8: 75, 4: 25, 2: 13}, "resnet": {4: 1, 1: 1}}
STRATEGIES = ("jit", "pmap", "single")


class ConfigError(UserError):
    """An invalid setting."""


class Rule(NamedTuple):
    """The values that a key may have.

    Attributes:
      text: which they are.
      fault: what to say after the key about a value that is none of them; None about one that is.
      integer: whether they are integers.
    """

    text: str
    fault: Callable[[Any], str | None]
    integer: bool = False


def _number(
    kind: type[float], low: float, high: float, *, above_low: bool = False, below_high: bool = False
) -> Rule:
    """A number of a kind within bounds, either of which may be excluded."""
    name, article = ("number", "a") if kind is float else ("integer", "an")
    bounds = f"{'(' if above_low else '['}{low:,}, {high:,}{')' if below_high else ']'}"

    def fault(value: Any) -> str | None:
        if not isinstance(value, (int, kind)) or isinstance(value, bool):
            return f"must be {article} {name}, got {value!r}"
        inside = low <= value <= high and not (
            (above_low and value == low) or (below_high and value == high)
        )
        return None if inside else f"must be in {bounds}, got {value!r}"

    return Rule(f"{name} in {bounds}", fault, integer=kind is int)


def _choice(known: Sequence[str]) -> Rule:
    """One of some names."""
    text = ", ".join(known)

    def fault(value: Any) -> str | None:
        if value in known:
            return None
        return f"is unknown: {value!r}; choose from {text}{nearest(value, known)}"

    return Rule(text, fault)


def _names(known: Sequence[str]) -> Rule:
    """Any of some names."""
    one = _choice(known)

    def fault(value: Any) -> str | None:
        if not isinstance(value, list | tuple):
            return f"must be a tuple of names, got {value!r}"
        return next(filter(None, map(one.fault, value)), None)

    return Rule(f"tuple of {one.text}", fault)


def _such(text: str, fits: Callable[[Any], bool], article: str = "") -> Rule:
    def fault(value: Any) -> str | None:
        return None if fits(value) else f"must be {article}{text}, got {value!r}"

    return Rule(text, fault)


class Key(NamedTuple):
    """A key of a config.

    Attributes:
      rule: the allowed values.
      default: the value if a config, perhaps of an earlier version, lacks the key.
      explanation: one line.
    """

    rule: Rule
    default: Any
    explanation: str


_BOOL = _such("True or False", lambda value: isinstance(value, bool))
_STRING = _such("string", lambda value: isinstance(value, str), "a ")
_SIZES = _such(
    "tuple of positive integers",
    lambda value: (
        isinstance(value, list | tuple)
        and len(value) > 0
        and all(type(size) is int and 1 <= size <= 2**20 for size in value)
    ),
    "a ",
)
_SIZE = _number(int, 1, 2**20)
_SIZE_OR_0 = _number(int, 0, 2**20)
_STEPS = _number(int, 1, 10**9)
_EXAMPLES = _number(int, 0, 2**31 - 1)
_SHARE = _number(float, 0, 1)
_BELOW_1 = _number(float, 0, 1, below_high=True)
_FACTOR = _number(float, 0, 1, above_low=True)
_POSITIVE = _number(float, 0, 1e3, above_low=True)

KEYS: dict[str, Key] = {
    # --- data ---
    "dataset": Key(_STRING, "mnist", "TFDS name, and version if you like"),
    "data_dir": Key(_STRING, "", "folder of prepared data sets; if given, the only one searched"),
    "stream": Key(
        _BOOL, False, "read minibatches from disk instead of keeping all images on the device"
    ),
    "data_workers": Key(
        _number(int, 0, 1_024),
        0,
        "threads that read and decode a stream; 0: in the one that feeds it",
    ),
    "image_size": Key(
        _number(int, 0, 2**12),
        0,
        "height and width that images are averaged down to, or a stream's are cropped and resized "
        "to; 0: as stored",
    ),
    "augment": Key(
        _choice(AUGMENTATIONS),
        "none",
        "of training images: crop shifts them by up to an eighth; inception, for a stream, crops, "
        "mirrors and distorts colours as Inception's training does",
    ),
    "random_flip": Key(
        _BOOL, False, "mirror half of the training images, left to right; needs digits 1"
    ),
    "digits": Key(
        _number(int, 1, 4), 1, "images side by side in a picture; MNIST's have 10 ** digits labels"
    ),
    "binary_input": Key(_BOOL, False, "pixels above 127 are 1, others 0; if False, 0 to 1"),
    # --- the run ---
    "seeds": Key(_number(int, 1, 10_000), 3, "runs of each variant, trained together"),
    "first_seed": Key(_number(int, 0, 2**31 - 10_001), 0, "seed of the first; the others follow"),
    "steps": Key(_STEPS, 6_000, "updates; a multiple of eval_every"),
    "batch_size": Key(_SIZE, 64, "examples the gradient is over"),
    "microbatch_size": Key(_SIZE, 64, "examples normalized together; divides batch_size"),
    "accumulation_steps": Key(
        _SIZE,
        1,
        "parts that a batch's gradient is computed in, one after the other, to save memory; "
        "divides the number of microbatches",
    ),
    "eval_every": Key(_STEPS, 500, "steps between evaluations"),
    "ema_decay": Key(
        _BELOW_1, 0.0, "decay of the parameter averages that evaluation uses; 0 for none"
    ),
    "preview": Key(_BOOL, False, "mark tables and figures as a preview"),
    "checkpoint.every": Key(
        _number(int, 0, 10**9), 10, "in evaluations; 0: only when interrupted, and at the end"
    ),
    "checkpoint.keep": Key(_number(int, 1, 1_000), 2, "checkpoints to keep, besides the best"),
    # --- devices, which change results only by rounding ---
    "devices.strategy": Key(_choice(STRATEGIES), "jit", "jit is a program over a mesh"),
    "devices.seeds": Key(_SIZE_OR_0, 0, "devices to spread seeds over; 0: automatic"),
    "devices.data": Key(_SIZE_OR_0, 0, "devices to spread batches over; 0: automatic"),
    "devices.synchronized": Key(
        _BOOL, False, "spread each microbatch over devices, which share its statistics"
    ),
    # --- model ---
    "model.name": Key(_choice(NETWORKS), "mlp", "the network"),
    "model.hidden": Key(_SIZES, (100, 100, 100), "units of an mlp's layers"),
    "model.channels": Key(_SIZES, (16, 32, 32, 32), "channels of a cnn's convolutions"),
    "model.width": Key(
        _number(float, 0, 16, above_low=True),
        1.0,
        "multiplier of the channels of inception and resnet",
    ),
    "model.stem_stride": Key(
        _number(int, 0, 8),
        0,
        "8, or 4 or 2 for small images, of inception; 4 or 1 of resnet; 0: the paper's",
    ),
    "model.auxiliary": Key(
        _BOOL, False, "give inception its auxiliary head, whose loss counts 0.4"
    ),
    "model.zero_last_scale": Key(
        _BOOL, False, "the last scale of each block of a resnet starts at 0"
    ),
    "model.remat": Key(
        _BOOL,
        False,
        "recompute activations of inception and resnet in the backward pass, to save memory",
    ),
    "model.activation": Key(
        _choice(ACTIVATIONS),
        "relu",
        "of the hidden layers; tlu is a ReLU with a learned threshold, evonorm_s0 takes identity",
    ),
    "model.kernel": Key(
        _choice(KERNELS), "plain", "what is done to the kernels of the hidden layers"
    ),
    "model.init": Key(
        _choice(INITIALIZERS),
        "lecun_normal",
        "of all weights; lecun_normal has variance 1 / inputs",
    ),
    "model.init_std": Key(_POSITIVE, 0.1, "standard deviation of init normal"),
    "model.dropout": Key(
        _BELOW_1,
        0.0,
        "rate at which an mlp's hidden units, or the last features of others, are dropped",
    ),
    "model.norm_placement": Key(
        _choice(PLACEMENTS),
        "before",
        "normalize before the nonlinearity, after it, or both; before only in resnet",
    ),
    "model.dtype": Key(
        _choice(DTYPES), "float32", "of activations; parameters, statistics and loss are float32"
    ),
    # --- optimizer ---
    "optimizer.name": Key(_choice(OPTIMIZERS), "sgd", "adam takes no momentum"),
    "optimizer.learning_rate": Key(
        _number(float, 0, 1e6, above_low=True), 0.1, "at its highest, if there is a schedule"
    ),
    "optimizer.momentum": Key(_BELOW_1, 0.0, "of sgd and rmsprop"),
    "optimizer.weight_decay": Key(
        _number(float, 0, 1e6), 0.0, "of the L2 penalty weight_decay / 2 * |kernels|^2"
    ),
    "optimizer.schedule": Key(
        _choice(SCHEDULES), "constant", "of the learning rate; cosine ends at 0"
    ),
    "optimizer.warmup": Key(_BELOW_1, 0.0, "share of the run in which the rate rises from 0"),
    "optimizer.decay_rate": Key(_FACTOR, 0.94, "factor of the exponential and step schedules"),
    "optimizer.decay_every": Key(_FACTOR, 0.1, "share of the run per decay by that factor"),
    "optimizer.rms_decay": Key(
        _BELOW_1, 0.9, "of rmsprop's average of squared gradients, which starts at 0"
    ),
    "optimizer.epsilon": Key(
        _POSITIVE,
        1e-8,
        "rmsprop adds it to the average of squared gradients, adam to the square root of that",
    ),
    "optimizer.clip_norm": Key(
        _number(float, 0, 1e6), 0.0, "largest norm of the gradient of all parameters; 0: unlimited"
    ),
    # --- minibatches ---
    "sampler.name": Key(
        _choice(SAMPLERS), "epochs", "how examples are drawn; epochs needs digits 1"
    ),
    "sampler.labels_per_batch": Key(_SIZE, 2, "for sampler labels"),
    "sampler.examples_per_label": Key(_SIZE, 30, "for sampler labels"),
    "sampler.repeat_labels": Key(_BOOL, False, "draw labels with replacement"),
    # --- evaluation and measures ---
    "evaluation.train_examples": Key(
        _EXAMPLES,
        0,
        "training images, from the first, or pictures of several digits, to also evaluate on "
        "(train_set)",
    ),
    "evaluation.minibatches": Key(
        _SIZE_OR_0, 0, "test minibatches to evaluate as in training (test_minibatches)"
    ),
    "evaluation.labels_per_batch": Key(
        _SIZE_OR_0, 0, "of these minibatches, with sampler labels; 0: as in training"
    ),
    "evaluation.holdout": Key(
        _EXAMPLES,
        0,
        "training images, from the last, to hold out and choose by instead of the test set",
    ),
    "measures": Key(_names(MEASURES), (), "what to measure besides loss and accuracy"),
    "measure_every": Key(_STEPS, 10, "steps between measures in training"),
    # --- normalizer ---
    "normalizer.name": Key(_choice(NORMALIZERS), "none", "the normalizer"),
    "normalizer.momentum": Key(_SHARE, 0.99, "of the moving averages"),
    "normalizer.epsilon": Key(_POSITIVE, 1e-5, "added to the variance"),
    "normalizer.use_scale": Key(_BOOL, True, "learn gamma; the Batch Renorm paper fixes it"),
    "normalizer.r_max": Key(
        _number(float, 1, 1e6),
        3.0,
        "Batch Renorm's final limit of r; also of moving_average_batch_norm (its authors' code: 5)",
    ),
    "normalizer.d_max": Key(_number(float, 0, 1e6), 5.0, "Batch Renorm's final limit of d"),
    "normalizer.warmup": Key(
        _SHARE,
        5 / 130,
        "share of the run with r_max 1, d_max 0; moving_average_batch_norm averages from there on",
    ),
    "normalizer.r_max_end": Key(_SHARE, 40 / 130, "share of the run until r_max is reached"),
    "normalizer.d_max_end": Key(_SHARE, 25 / 130, "share of the run until d_max is reached"),
    "normalizer.num_groups": Key(_SIZE, 10, "of group_norm and evonorm_s0; divides the features"),
    "normalizer.window": Key(
        _number(int, 1, 10_000), 16, "steps that moving_average_batch_norm averages over"
    ),
}
# Numbers that a compiled program can take as arguments: variants that differ only in these share
# one program.
TRACED = (
    "optimizer.learning_rate", "optimizer.momentum", "optimizer.weight_decay",
    "normalizer.momentum", "normalizer.epsilon", "normalizer.r_max", "normalizer.d_max",
    "model.dropout", "model.init_std",
)  # fmt: skip
# These apply to a whole comparison; a variant cannot change them.
COMMON = {"variants", "baseline", "dataset", "data_dir", "stream", "data_workers", "image_size",
          "seeds", "first_seed", "steps", "eval_every", "preview", "checkpoint", "measures",
          "measure_every"}  # fmt: skip


def check_setting(key: str, value: Any) -> None:
    """Makes sure that the key exists and may have this value.

    Raises:
      ConfigError: it does not; the message names the nearest key, or the bounds.
    """
    # The nearest key is searched for only on an error: that is slow.
    if key not in KEYS:
        raise ConfigError(f"{key} is not a config key" + nearest(key, KEYS))
    if fault := KEYS[key].rule.fault(value):
        raise ConfigError(f"{key} {fault}")


def may_be_swept(key: str) -> bool:
    """Whether trials may differ in it: all are trained alike and ranked on the same images."""
    shared = {*COMMON, "devices", "digits", "evaluation.holdout"}
    return not {key, key.partition(".")[0]} & shared


def is_integer(key: str) -> bool:
    """Whether a config key takes only integers."""
    return KEYS[key].rule.integer


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
