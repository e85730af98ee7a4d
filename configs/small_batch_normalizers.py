"""Batch Norm and Batch Renorm with small microbatches, beside what was made for them.

    python -m experiments.small_batch --config=configs/small_batch_normalizers.py:mlp \
        --workdir=runs/small_batch_normalizers_mlp

After the colon: `mlp`, `cnn`, or `tiny`, four convolutions on Tiny ImageNet at 32 x 32. Each
normalizer gets the learning rate of OWN_RATES, with which it ends highest on held-out images, on
other seeds (configs/small_batch_normalizers_rates.py); if two tie, the smaller. `mlp_common`,
`cnn_common` and `tiny_common` give the common rate to all of them.

With `mlp`, ten seeds and microbatches of 2 gave 45.63% with Batch Norm, 91.48% with Batch Renorm
and 97.44% with MABN; group norm gave 97.48%: results/small_batch_normalizers_mlp. It takes five
minutes on two cores. With `cnn`, ten seeds and microbatches of 2 gave 98.37%, 98.52% and 98.74%,
those of 1 18.85%, 80.82% and 98.63%, and group norm 98.48%, in 66 core-minutes:
results/small_batch_normalizers_cnn. With `tiny`, three seeds and microbatches of 2 gave 22.61%,
21.57% and 30.68%, those of 1 3.24%, 10.73% and 30.68%, and group norm 27.64%, in 193 core-minutes:
results/small_batch_normalizers_tiny.

At the common rates, 0.1, 1 and 0.03, microbatches of 2 gave 71.18%, 98.21% and 22.61% with Batch
Norm and 91.48%, 98.51% and 21.11% with Batch Renorm, in 12, 104 and 372 core-minutes
(results/small_batch_normalizers_mlp_common and so on).

On Tiny ImageNet, from microbatches of 2 on, Batch Renorm repaired nothing. Momentum 0.9 closes most
of its gap on whole minibatches (configs/renorm_tiny.py), so one more run was written down, before
it began, to look whether it then repairs: `tiny_common` with averages of all parameters
(--config.ema_decay=0.999 --config.normalizer.momentum=0.9 --config.first_seed=26000), Batch Norm
and Batch Renorm at 32, 4 and 2 (--only). It does if Batch Renorm ends above Batch Norm at 4 or at
2 and that difference survives Holm's correction over the three. It does, at 2: Batch Norm ended at
25.97% there and Batch Renorm at 30.39%, in 65 core-minutes
(results/small_batch_normalizers_tiny_momentum).

Group norm with weight standardization, filter response norm, EvoNorm-S0 and moving average batch
norm (MABN) come with the nonlinearity and the treatment of weights that their papers recommend.
Epsilon is 1e-3 for all, as in Inception's Batch Norm; filter response norm's paper has 1e-6. Layer
norm is over the channels of each position, as in Flax.
"""

from ml_collections import ConfigDict

from configs import small_batch, small_batch_cnn

MICROBATCH_SIZES = (64, 8, 4, 2, 1)
# Of the networks in turn, by configs/small_batch_normalizers_rates.py.
_OWN_RATES = {
    "batch_norm": (0.3, 0.3, 0.03),
    "batch_renorm": (0.1, 3.0, 0.01),
    "group_norm": (1.0, 1.0, 0.01),
    "group_norm standardized": (1.0, 1.0, 0.1),
    "layer_norm": (0.3, 0.3, 0.01),
    "filter_response_norm": (0.3, 0.3, 0.03),
    "evonorm_s0": (0.1, 1.0, 0.01),
    "moving_average_batch_norm": (0.3, 0.3, 0.1),
    "none": (0.3, 1.0, 0.01),
}
OWN_RATES = {
    network: {name: rates[i] for name, rates in _OWN_RATES.items()}
    for i, network in enumerate(("mlp", "cnn", "tiny"))
}
# Those of the comparisons of Batch Norm and Batch Renorm alone; on Tiny ImageNet, where there is
# none, the rate with which Batch Norm ends highest.
COMMON_RATES = {
    "mlp": small_batch.get_config().optimizer.learning_rate,
    "cnn": small_batch_cnn.get_config().optimizer.learning_rate,
    "tiny": OWN_RATES["tiny"]["batch_norm"],
}


def get_config(which: str = "mlp") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    network, _, common = which.partition("_")
    if network not in COMMON_RATES or common not in ("", "common"):
        known = [f"{name}{end}" for name in COMMON_RATES for end in ("", "_common")]
        raise ValueError(f"after the colon, a config takes {', '.join(known)}, got {which!r}")
    config = network_config(network)
    # No other experiment, and no choice of a setting, used these seeds.
    config.first_seed = 12_000
    config.seeds = 3 if network == "tiny" else 10
    config.variants = {}
    for name, overrides in NORMALIZERS.items():
        rate = COMMON_RATES[network] if common else OWN_RATES[network][name]
        for size in microbatch_sizes(name, network, config.batch_size):
            config.variants[f"{name} {size}"] = {
                **overrides,
                "microbatch_size": size,
                "optimizer": {"learning_rate": rate},
            }
    config.baseline = f"batch_norm {config.batch_size}"
    return config


def network_config(network: str) -> ConfigDict:
    """What all normalizers have in common."""
    config = small_batch.get_config() if network == "mlp" else small_batch_cnn.get_config()
    if network == "tiny":
        config.dataset = "tiny_imagenet/100"
        config.image_size = 32
        config.random_flip = True
        config.batch_size = config.microbatch_size = 32
        config.steps = 16_000
        config.eval_every = 1_000
        config.model.channels = (32, 64, 128, 128)
        config.optimizer.momentum = 0.9
    return config


def microbatch_sizes(name: str, network: str, batch_size: int) -> list[int]:
    """Those to train with; only the whole batch for what sees one image at a time."""
    if name not in ("batch_norm", "batch_renorm", "moving_average_batch_norm"):
        return [batch_size]
    sizes = {min(size, batch_size) for size in MICROBATCH_SIZES}
    # A single value has no deviation from its mean, but a square, which MABN divides by. A
    # convolution makes several values of one image.
    if network == "mlp" and name != "moving_average_batch_norm":
        sizes.remove(1)
    return sorted(sizes, reverse=True)


NORMALIZERS: dict[str, dict] = {
    "batch_norm": {"normalizer": {"name": "batch_norm"}},
    "batch_renorm": {"normalizer": {"name": "batch_renorm"}},
    "group_norm": {"normalizer": {"name": "group_norm"}},
    "group_norm standardized": {
        "normalizer": {"name": "group_norm"},
        "model": {"kernel": "standardized"},
    },
    "layer_norm": {"normalizer": {"name": "layer_norm"}},
    "filter_response_norm": {
        "normalizer": {"name": "filter_response_norm"},
        "model": {"activation": "tlu"},
    },
    "evonorm_s0": {"normalizer": {"name": "evonorm_s0"}, "model": {"activation": "identity"}},
    # r_max and momentum of the authors' code.
    "moving_average_batch_norm": {
        "normalizer": {"name": "moving_average_batch_norm", "r_max": 5.0, "momentum": 0.98},
        "model": {"kernel": "centred"},
    },
    "none": {"normalizer": {"name": "none"}},
}
