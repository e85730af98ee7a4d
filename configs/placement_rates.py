"""Does a sigmoid network with Batch Norm after the nonlinearity train at a smaller learning rate?

    python -m experiments.train --config=configs/placement_rates.py --workdir=runs/placement_rates

In claim B9 of the ledger all runs of it diverge, at the rate that was chosen for Batch Norm before
the nonlinearity, 3: this looks for rates at which both train. The network is that of
configs/claims/placement.py. A name gives the place and the learning rate.
"""

from ml_collections import ConfigDict

from configs.claims import placement

RATES = (0.03, 0.1, 0.3, 1.0, 3.0)


def get_config() -> ConfigDict:
    """The comparison: keys as in configs/mnist_sigmoid.py."""
    config = placement.get_config()
    variants = config.variants.to_dict()
    # No other experiment used these seeds.
    config.first_seed = 24_000
    config.seeds = 5
    config.variants = {
        f"{place} rate {rate:g}".replace(".", "_"): variants[f"sigmoid {place}"]
        | {"optimizer": {"learning_rate": rate}}
        for rate in RATES
        for place in ("before", "after")
    }
    config.baseline = "before rate 3"
    return config
