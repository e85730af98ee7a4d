r"""Trains sbx's CrossQ on Pendulum-v1 with sbx's BatchRenorm and with bnrepro's.

    python -m scripts.pendulum --output=results/reinforcement_learning/pendulum.md

It needs sbx: pip install -r requirements-peers.txt. docs/reinforcement-learning.md explains it.
"""

import argparse
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import bnrepro
from scripts import make_parser, publish, signed_page

_ENVIRONMENT = "Pendulum-v1"
_EPISODES = 20  # of an evaluation; all runs see the same initial states


def batch_renorm(warmup_steps: int = 100_000, **fields: Any) -> bnrepro.BatchRenorm:
    """Our layer, called the way sbx calls its own; sbx's limits are always 3 and 5."""
    r_max, d_max = bnrepro.delayed_renorm_schedules(warmup_steps, r_max=3.0, d_max=5.0)
    return bnrepro.BatchRenorm(epsilon=0.001, r_max=r_max, d_max=d_max, **fields)


def main(arguments: Sequence[str] | None = None) -> None:
    """Trains with each layer and each seed, and writes a table of the returns."""
    parser = make_parser("pendulum", __doc__)
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="FILE", help="a Markdown file")
    add("--steps", type=int, default=6_000, help="of the environment (default: %(default)s)")
    add("--seeds", type=int, default=2, help="number of seeds (default: %(default)s)")
    add(
        "--warmup_steps",
        type=int,
        default=1_000,
        help="updates of a layer as plain Batch Norm (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if min(options.steps, options.seeds) < 1 or options.warmup_steps < 0:
        parser.error("--steps and --seeds must be at least 1, --warmup_steps at least 0.")
    if find_spec("sbx") is None:
        parser.error("sbx is not installed; run `pip install -r requirements-peers.txt` first.")
    publish(options.output, lambda: _comparison(options))


def _comparison(options: argparse.Namespace) -> str:
    import pandas as pd
    from sbx.common.jax_layers import BatchRenorm

    begin = time.time()
    seeds = range(options.seeds)
    returns = {
        name: [_mean_return(layer, seed, options) for seed in seeds]
        for name, layer in {"sbx": BatchRenorm, "bnrepro": batch_renorm}.items()
    }
    minutes = (time.time() - begin) / 60
    table = pd.DataFrame(returns, index=[f"seed {seed}" for seed in seeds]).T
    table["mean"] = table.mean(axis=1)
    text = f"""\
Mean return of {_EPISODES} episodes with the deterministic policy after {options.steps:,} steps of
the environment. All runs are evaluated from the same initial states. The settings are the
defaults of sbx's CrossQ except for the warm-up: each layer is plain Batch Norm for its first
{options.warmup_steps:,} updates. The critics are updated at every step, the actor at every third.

{minutes:.0f} minutes for all runs."""
    return signed_page(
        f"CrossQ on {_ENVIRONMENT} with two Batch Renorm layers",
        table.map("{:.1f}".format),
        text,
        packages=("jax", "flax", "sbx-rl", "stable-baselines3", "gymnasium"),
    )


def _mean_return(layer: Any, seed: int, options: argparse.Namespace) -> float:
    from sbx import CrossQ
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy

    with mock.patch("sbx.crossq.policies.BatchRenorm", layer):
        model = CrossQ(
            "MlpPolicy",
            _ENVIRONMENT,
            seed=seed,
            policy_kwargs={"renorm_warmup_steps": options.warmup_steps},
        )
        model.learn(options.steps)
        environment = make_vec_env(_ENVIRONMENT, seed=1_000)
        result: Any = evaluate_policy(model, environment, _EPISODES, deterministic=True)
    return float(result[0])


if __name__ == "__main__":
    main()
