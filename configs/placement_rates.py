"""The comparison that chose the learning rates of claim B9: configs/claims/placement.py.

    python -m experiments.train --config=configs/placement_rates.py --workdir=runs/placement_rates

At a rate of 3, a sigmoid network trains with Batch Norm before the nonlinearity and always diverges
with it after: a comparison at one rate would show the rate. For each network, the rate with the
highest accuracy on images that are held out from training is taken, if no run diverged; the test
set decides nothing. A name gives the network and the learning rate.

Five seeds chose 10 before a sigmoid (97.26%, by 0.02 points over 3) and 0.3 after it (97.46%), and
for ReLU 0.3 before (98.04%) and 0.1 after (97.70%): results/placement_rates.
"""

from ml_collections import ConfigDict

from configs.claims import placement

RATES = {"sigmoid": (0.1, 0.3, 1.0, 3.0, 10.0), "relu": (0.03, 0.1, 0.3, 1.0)}


def get_config() -> ConfigDict:
    """The comparison: keys as in docs/configuration.md."""
    config = placement.get_config()
    networks = config.variants.to_dict()
    # No other experiment used these seeds.
    config.first_seed = 25_000
    config.seeds = 5
    config.evaluation.holdout = 5_000
    config.variants = {
        f"{activation} {place} rate {rate:g}".replace(".", "_"): {
            **networks[f"{activation} {place}"],
            "optimizer": {"learning_rate": rate},
        }
        for activation, rates in RATES.items()
        for place in ("before", "after")
        for rate in rates
    }
    config.baseline = "sigmoid before rate 3"
    return config
