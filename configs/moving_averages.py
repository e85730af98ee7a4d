"""At which learning rates does normalizing with moving averages in training blow the model up?

    python -m experiments.train --config=configs/moving_averages.py --workdir=runs/moving_averages

Claim B8 of the ledger does not hold at its learning rate, 0.1: this looks for one at which it does.
Network and normalizers are those of configs/claims/counterexamples.py. A name gives the normalizer
and the learning rate.

Five seeds: with moving averages, the network trains at 0.1, diverges once at 0.3 and always from 1
on; with Batch Norm, it trains up to 3: results/moving_averages. It takes two minutes on two cores.
"""

from ml_collections import ConfigDict

from configs.claims import counterexamples

RATES = (0.1, 0.3, 1.0, 3.0, 10.0)


def get_config() -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = counterexamples.get_config()
    # No other experiment used these seeds.
    config.first_seed = 21_000
    config.seeds = 5
    config.measures = ()
    config.variants = {
        f"{name} rate {rate:g}".replace(".", "_"): {
            "normalizer": {"name": name},
            "optimizer": {"learning_rate": rate},
        }
        for rate in RATES
        for name in ("batch_norm", "moving_average_norm")
    }
    config.baseline = "batch_norm rate 0_1"
    return config
