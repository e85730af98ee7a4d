r"""The sweep that chose learning rate and initialization of configs/mnist_sigmoid.py.

    python -m experiments.mnist_sigmoid --config=configs/mnist_sigmoid_rates.py \
        --workdir=runs/mnist_sigmoid_rates

The [BN] paper gives neither. The network without normalization is trained in full length with
each pair of a grid, on two seeds that no comparison uses, and the pair with the highest mean final
accuracy on images that are held out from training is taken for all variants: the choice that does
the plain network most good. The test set decides nothing.

Rate 3 and deviation 0.1 ended highest, with 97.54%: results/mnist_sigmoid_rates.
"""

from ml_collections import ConfigDict

from configs import mnist_sigmoid

LEARNING_RATES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
INIT_STDS = (0.01, 0.03, 0.1, 0.3)


def get_config() -> ConfigDict:
    """The comparison of the plain network's learning rates and initializations."""
    config = mnist_sigmoid.get_config()
    config.seeds = 2
    config.first_seed = 1000
    config.evaluation.holdout = 5_000
    config.eval_every = 2_500
    config.variants = {
        f"rate {rate:g}, std {std:g}".replace(".", "_"): {
            "optimizer": {"learning_rate": rate},
            "model": {"init_std": std},
        }
        for rate in LEARNING_RATES
        for std in INIT_STDS
    }
    config.baseline = "rate 0_1, std 0_1"
    return config
