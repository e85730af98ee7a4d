"""The comparison that chose the learning rates of configs/small_batch_normalizers.py.

    python -m experiments.train --config=configs/small_batch_normalizers_rates.py:mlp \
        --workdir=runs/small_batch_normalizers_rates_mlp

After the colon: `mlp`, `cnn` or `tiny`. Microbatches of 4, on seeds that no comparison uses. The
rate with the highest accuracy on images that are held out from training is taken for each
normalizer; the test set decides nothing.

With `mlp`, ten seeds chose the highest rate, 1, for group norm, plain and with standardized
weights, by 0.05 points over the next best; it took 18 core-minutes
(results/small_batch_normalizers_rates_mlp). With `cnn`, two seeds chose the highest, 3, for Batch
Renorm, by 0.04 points over 1, in 21 (results/small_batch_normalizers_rates_cnn). With `tiny`, one
seed chose an end of the grid for seven of nine, the lowest rate for five and the highest for two,
in 98 (results/small_batch_normalizers_rates_tiny).
"""

from ml_collections import ConfigDict

from configs import small_batch_normalizers as comparison

# With two seeds, the rounding of another machine chose other rates for the MLP.
SEEDS = {"mlp": 10, "cnn": 2, "tiny": 1}
RATES = {
    "mlp": (0.03, 0.1, 0.3, 1.0),
    # The comparison of Batch Norm's rates ended at 1, its highest.
    "cnn": (0.03, 0.1, 0.3, 1.0, 3.0),
    "tiny": (0.01, 0.03, 0.1),
}


def get_config(network: str = "mlp") -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    if network not in RATES:
        raise ValueError(f"after the colon, a config takes {', '.join(RATES)}, got {network!r}")
    config = comparison.network_config(network)
    config.seeds = SEEDS[network]
    config.first_seed = 11_000
    config.evaluation.holdout = 5_000
    config.variants = {}
    for name, overrides in comparison.NORMALIZERS.items():
        size = 4 if len(comparison.microbatch_sizes(name, network, config.batch_size)) > 1 else None
        for rate in RATES[network]:
            config.variants[f"{name} rate {rate:g}".replace(".", "_")] = {
                **overrides,
                "microbatch_size": size or config.batch_size,
                "optimizer": {"learning_rate": rate},
            }
    config.baseline = f"batch_norm rate {RATES[network][0]:g}".replace(".", "_")
    return config
