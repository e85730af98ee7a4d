"""The keys of a config: allowed values, defaults and meanings.

Nothing here imports JAX, so the names that data, models and training know are repeated.
"""

from collections.abc import Iterable
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
CHANNELS = {
    "inception": (32, 48, 64, 80, 96, 128, 160, 192, 320, 384, 448),
    "resnet": (64,),
}
# Strides of the stem that each network has, the paper's first, and the smallest images they take.
STEMS = {"inception": {8: 75, 4: 25, 2: 13}, "resnet": {4: 1, 1: 1}}
STRATEGIES = ("jit", "pmap", "single")


class ConfigError(UserError):
    """An invalid setting."""


class Number(NamedTuple):
    """A number of a kind within bounds, either of which may be excluded."""

    kind: type
    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def __str__(self) -> str:
        left, right = "(" if self.open_low else "[", ")" if self.open_high else "]"
        kind = "number" if self.kind is float else "integer"
        return f"{kind} in {left}{self.low:,}, {self.high:,}{right}"

    def check(self, key: str, value: Any) -> None:
        """Raises ConfigError unless the key may have the value."""
        kinds = (int, float) if self.kind is float else (int,)
        kind, _, bounds = str(self).partition(" in ")
        require(
            isinstance(value, kinds) and not isinstance(value, bool),
            f"{key} must be {'a' if self.kind is float else 'an'} {kind}, got {value!r}",
        )
        inside = (value > self.low or (value == self.low and not self.open_low)) and (
            value < self.high or (value == self.high and not self.open_high)
        )
        require(inside, f"{key} must be in {bounds}, got {value!r}")


class Choice(NamedTuple):
    """One of some names."""

    known: Iterable[str]

    def __str__(self) -> str:
        return ", ".join(sorted(self.known))

    def check(self, key: str, value: Any) -> None:
        """Raises ConfigError unless the key may have the value."""
        if value not in self.known:
            hint = nearest(value, self.known)
            raise ConfigError(f"{key} is unknown: {value!r}; choose from {self}{hint}")


class Is(NamedTuple):
    """A string, or True or False."""

    kind: type

    def __str__(self) -> str:
        return {str: "string", bool: "True or False"}[self.kind]

    def check(self, key: str, value: Any) -> None:
        """Raises ConfigError unless the key may have the value."""
        wanted = {str: "a string", bool: "True or False"}[self.kind]
        require(isinstance(value, self.kind), f"{key} must be {wanted}, got {value!r}")


class Sizes(NamedTuple):
    """Sizes of layers."""

    def __str__(self) -> str:
        return "tuple of positive integers"

    def check(self, key: str, value: Any) -> None:
        """Raises ConfigError unless the key may have the value."""
        require(
            isinstance(value, list | tuple)
            and len(value) > 0
            and all(type(size) is int and 1 <= size <= 2**20 for size in value),
            f"{key} must be a tuple of positive integers, got {value!r}",
        )


class Names(NamedTuple):
    """Any of some names, each once."""

    known: Iterable[str]

    def __str__(self) -> str:
        return f"tuple of {', '.join(sorted(self.known))}"

    def check(self, key: str, value: Any) -> None:
        """Raises ConfigError unless the key may have the value."""
        require(isinstance(value, list | tuple), f"{key} must be a tuple of names, got {value!r}")
        for name in value:
            Choice(self.known).check(key, name)
        require(len(set(value)) == len(value), f"{key} has a name twice: {value!r}")


class Key(NamedTuple):
    """A key of a config.

    Attributes:
      rule: the allowed values.
      default: the value if a config, perhaps of an earlier version, lacks the key.
      explanation: one line.
    """

    rule: Number | Choice | Is | Sizes | Names
    default: Any
    explanation: str


_BATCH = Number(int, 1, 2**20)
_SHARE = Number(float, 0, 1)

KEYS: dict[str, Key] = {
    # --- data ---
    "dataset": Key(Is(str), "mnist", "TFDS name, and version if you like"),
    "data_dir": Key(Is(str), "", "folder of prepared data sets; if given, the only one searched"),
    "stream": Key(
        Is(bool), False, "read minibatches from disk instead of keeping all images on the device"
    ),
    "data_workers": Key(
        Number(int, 0, 1_024),
        0,
        "threads that read and decode a stream; 0: in the one that feeds it",
    ),
    "image_size": Key(
        Number(int, 0, 2**12),
        0,
        "height and width that images are averaged down to, or a stream's are cropped and resized "
        "to; 0: as stored",
    ),
    "augment": Key(
        Choice(AUGMENTATIONS),
        "none",
        "of training images: crop shifts them by up to an eighth; inception, for a stream, crops, "
        "mirrors and distorts colours as Inception's training does",
    ),
    "random_flip": Key(Is(bool), False, "mirror half of the training images, left to right"),
    "digits": Key(
        Number(int, 1, 4), 1, "images side by side in a picture; MNIST's have 10 ** digits labels"
    ),
    "binary_input": Key(Is(bool), False, "pixels above 127 are 1, others 0; if False, 0 to 1"),
    # --- the run ---
    "seeds": Key(Number(int, 1, 10_000), 3, "runs of each variant, trained together"),
    "first_seed": Key(Number(int, 0, 2**31 - 10_001), 0, "seed of the first; the others follow"),
    "steps": Key(Number(int, 1, 10**9), 6_000, "updates; a multiple of eval_every"),
    "batch_size": Key(_BATCH, 64, "examples the gradient is over"),
    "microbatch_size": Key(_BATCH, 64, "examples normalized together; divides batch_size"),
    "accumulation_steps": Key(
        _BATCH,
        1,
        "parts that a batch's gradient is computed in, one after the other, to save memory; "
        "divides the number of microbatches",
    ),
    "eval_every": Key(Number(int, 1, 10**9), 500, "steps between evaluations"),
    "ema_decay": Key(
        Number(float, 0, 1, open_high=True),
        0.0,
        "decay of the parameter averages that evaluation uses; 0 for none",
    ),
    "preview": Key(Is(bool), False, "mark tables and figures as a preview"),
    "checkpoint.every": Key(
        Number(int, 0, 10**9), 10, "in evaluations; 0: only when interrupted, and at the end"
    ),
    "checkpoint.keep": Key(Number(int, 1, 1_000), 2, "checkpoints to keep, besides the best"),
    # --- devices, which change results only by rounding ---
    "devices.strategy": Key(Choice(STRATEGIES), "jit", "jit is a program over a mesh"),
    "devices.seeds": Key(Number(int, 0, 2**20), 0, "devices to spread seeds over; 0: automatic"),
    "devices.data": Key(Number(int, 0, 2**20), 0, "devices to spread batches over; 0: automatic"),
    "devices.synchronized": Key(
        Is(bool), False, "spread each microbatch over devices, which share its statistics"
    ),
    # --- model ---
    "model.name": Key(Choice(NETWORKS), "mlp", "the network"),
    "model.hidden": Key(Sizes(), (100, 100, 100), "units of an mlp's layers"),
    "model.channels": Key(Sizes(), (16, 32, 32, 32), "channels of a cnn's convolutions"),
    "model.width": Key(
        Number(float, 0, 16, open_low=True),
        1.0,
        "multiplier of the channels of inception and resnet",
    ),
    "model.stem_stride": Key(
        Number(int, 0, 8),
        0,
        "8, or 4 or 2 for small images, of inception; 4 or 1 of resnet; 0: the paper's",
    ),
    "model.auxiliary": Key(
        Is(bool), False, "give inception its auxiliary head, whose loss counts 0.4"
    ),
    "model.zero_last_scale": Key(
        Is(bool), False, "the last scale of each block of a resnet starts at 0"
    ),
    "model.remat": Key(
        Is(bool),
        False,
        "recompute activations of inception and resnet in the backward pass, to save memory",
    ),
    "model.activation": Key(
        Choice(ACTIVATIONS),
        "relu",
        "of the hidden layers; tlu is a ReLU with a learned threshold, evonorm_s0 takes identity",
    ),
    "model.kernel": Key(
        Choice(KERNELS), "plain", "what is done to the kernels of the hidden layers"
    ),
    "model.init": Key(
        Choice(INITIALIZERS), "lecun_normal", "of all weights; lecun_normal has variance 1 / inputs"
    ),
    "model.init_std": Key(
        Number(float, 0, 1e3, open_low=True), 0.1, "standard deviation of init normal"
    ),
    "model.dropout": Key(
        Number(float, 0, 1, open_high=True),
        0.0,
        "rate at which an mlp's hidden units, or the last features of others, are dropped",
    ),
    "model.norm_placement": Key(
        Choice(PLACEMENTS),
        "before",
        "normalize before the nonlinearity, after it, or both; before only in resnet",
    ),
    "model.dtype": Key(
        Choice(DTYPES), "float32", "of activations; parameters, statistics and loss are float32"
    ),
    # --- optimizer ---
    "optimizer.name": Key(Choice(OPTIMIZERS), "sgd", "adam takes no momentum"),
    "optimizer.learning_rate": Key(
        Number(float, 0, 1e6, open_low=True), 0.1, "at its highest, if there is a schedule"
    ),
    "optimizer.momentum": Key(Number(float, 0, 1, open_high=True), 0.0, "of sgd and rmsprop"),
    "optimizer.weight_decay": Key(
        Number(float, 0, 1e6), 0.0, "of the L2 penalty weight_decay / 2 * |kernels|^2"
    ),
    "optimizer.schedule": Key(
        Choice(SCHEDULES), "constant", "of the learning rate; cosine ends at 0"
    ),
    "optimizer.warmup": Key(
        Number(float, 0, 1, open_high=True), 0.0, "share of the run in which the rate rises from 0"
    ),
    "optimizer.decay_rate": Key(
        Number(float, 0, 1, open_low=True), 0.94, "factor of the exponential and step schedules"
    ),
    "optimizer.decay_every": Key(
        Number(float, 0, 1, open_low=True), 0.1, "share of the run per decay by that factor"
    ),
    "optimizer.rms_decay": Key(
        Number(float, 0, 1, open_high=True),
        0.9,
        "of rmsprop's average of squared gradients, which starts at 0",
    ),
    "optimizer.epsilon": Key(
        Number(float, 0, 1e3, open_low=True),
        1e-8,
        "rmsprop adds it to the average of squared gradients, adam to the square root of that",
    ),
    "optimizer.clip_norm": Key(
        Number(float, 0, 1e6), 0.0, "largest norm of the gradient of all parameters; 0: unlimited"
    ),
    # --- minibatches ---
    "sampler.name": Key(
        Choice(SAMPLERS),
        "epochs",
        "how examples are drawn; epochs needs digits 1",
    ),
    "sampler.labels_per_batch": Key(_BATCH, 2, "for sampler labels"),
    "sampler.examples_per_label": Key(_BATCH, 30, "for sampler labels"),
    "sampler.repeat_labels": Key(Is(bool), False, "draw labels with replacement"),
    # --- evaluation and measures ---
    "evaluation.train_examples": Key(
        Number(int, 0, 2**31 - 1),
        0,
        "training images, from the first, to also evaluate on (train_set)",
    ),
    "evaluation.minibatches": Key(
        Number(int, 0, 2**20),
        0,
        "test minibatches to evaluate with their own statistics (test_minibatches)",
    ),
    "evaluation.labels_per_batch": Key(
        Number(int, 0, 2**20), 0, "of these minibatches, with sampler labels; 0: as in training"
    ),
    "evaluation.holdout": Key(
        Number(int, 0, 2**31 - 1),
        0,
        "training images, from the last, to hold out and choose by instead of the test set",
    ),
    "measures": Key(Names(MEASURES), (), "what to measure besides loss and accuracy"),
    "measure_every": Key(Number(int, 1, 10**9), 10, "steps between measures in training"),
    # --- normalizer ---
    "normalizer.name": Key(Choice(NORMALIZERS), "none", "the normalizer"),
    "normalizer.momentum": Key(_SHARE, 0.99, "of the moving averages"),
    "normalizer.epsilon": Key(Number(float, 0, 1e3, open_low=True), 1e-5, "added to the variance"),
    "normalizer.use_scale": Key(Is(bool), True, "learn gamma; the Batch Renorm paper fixes it"),
    "normalizer.r_max": Key(
        Number(float, 1, 1e6),
        3.0,
        "Batch Renorm's final limit of r; also of moving_average_batch_norm (its authors' code: 5)",
    ),
    "normalizer.d_max": Key(Number(float, 0, 1e6), 5.0, "Batch Renorm's final limit of d"),
    "normalizer.warmup": Key(
        _SHARE,
        5 / 130,
        "share of the run with r_max 1, d_max 0; moving_average_batch_norm averages from there on",
    ),
    "normalizer.r_max_end": Key(_SHARE, 40 / 130, "share of the run until r_max is reached"),
    "normalizer.d_max_end": Key(_SHARE, 25 / 130, "share of the run until d_max is reached"),
    "normalizer.num_groups": Key(_BATCH, 10, "of group_norm and evonorm_s0; divides the features"),
    "normalizer.window": Key(
        Number(int, 1, 10_000), 16, "steps that moving_average_batch_norm averages over"
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
    KEYS[key].rule.check(key, value)


def is_integer(key: str) -> bool:
    """Whether a config key takes only integers."""
    rule = KEYS[key].rule
    return isinstance(rule, Number) and rule.kind is int


def keys_table() -> str:
    """All keys as a Markdown table."""
    rows = [
        f"| `{name}` | {key.rule} | `{key.default!r}` | {key.explanation} |"
        for name, key in KEYS.items()
    ]
    return "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])


def require(condition: bool, message: str) -> None:
    """Raises ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
