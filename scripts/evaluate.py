"""Evaluates a run's checkpoints on the test set, with the normalizer statistics of your choice.

Shows a row per variant: mean over seeds with its 95% confidence interval. Does not change the
workdir. For example:
python -m scripts.evaluate runs/small_batch --checkpoint=best --statistics=population
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path

from bnrepro.errors import UserError, exit_codes
from scripts import make_parser

_STATISTICS = {
    "moving": "the stored moving averages",
    "minibatch": "as in training, each microbatch's own statistics (in Batch Renorm, within its "
    "limits of r and d, the moving averages), in minibatches of test images like those of "
    "training's evaluations",
    "population": "statistics of the whole training set ([BN] Algorithm 2)",
}


@exit_codes()
def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluates what the command line names.

    Raises:
      SystemExit: with code 2, after a sentence on stderr, if it cannot be evaluated.
    """
    options = _parser().parse_args(arguments)

    # Imported only now, so that --help need not wait for JAX.
    import numpy as np
    import pandas as pd

    from bnrepro.comparison import restored
    from bnrepro.comparison.config import common_config
    from bnrepro.comparison.provenance import dataset_identity
    from bnrepro.comparison.reevaluation import reevaluate
    from bnrepro.comparison.run import dataset_of
    from bnrepro.records import check_data, read_run
    from bnrepro.report.statistics import estimate
    from bnrepro.report.tables import Unit, mean_cell, mean_note, print_table, seeds_cell

    run = read_run(options.workdir)
    configs = restored.checked_configs(run)
    names = list(dict.fromkeys(options.variants or run.variants))
    for name in names:
        restored.check_variant(run, name)
    found = {
        name: checkpoint
        for name in names
        if (checkpoint := restored.restore_variant(run, name, options.checkpoint))
    }
    missing = {name: restored.why_none(run, name) for name in names if name not in found}
    if not found:
        raise UserError(f"{run.workdir}: {', '.join(sorted({*missing.values()}))}")
    # The config's data folder may be on another machine, and is not to be trusted.
    common = common_config(run.config)
    dataset = dataset_of({**common, "data_dir": options.data_dir})
    check_data(run, dataset_identity(dataset))

    rows = {name: [missing.get(name), "–", "–", "–"] for name in names}
    for name, checkpoint in found.items():
        values = reevaluate(checkpoint, configs[name], dataset, options.statistics)
        diverged = np.isnan(values["accuracy"])
        accuracy = estimate(np.where(diverged, run.chance(name), values["accuracy"]))
        loss_cell = mean_cell(estimate(values["loss"]), Unit(1, ".4f"))
        seeds = seeds_cell(len(checkpoint.seeds), int(diverged.sum()))
        rows[name] = [f"{checkpoint.step:,}", mean_cell(accuracy), loss_cell, seeds]
    columns = ["step", "test accuracy, %", "test loss", "seeds"]
    beware = "STAND-IN DATA: not MNIST. " if dataset.stand_in else ""
    caption = (
        f"{beware}Test set of {dataset.name} with {_STATISTICS[options.statistics]}: "
        f"{mean_note(str(rows))}; a seed that diverged counts at chance accuracy and has no loss."
    )
    without = [name for name, one in found.items() if not one.variables["batch_stats"]]
    if options.statistics == "population" and without:
        caption += f" No moving averages, and so no such statistics: {', '.join(without)}."
    shown = {configs[name]["normalizer"]["name"] for name in found}
    if options.statistics == "population" and "batch_renorm" in shown:
        caption += (
            " Batch Renorm's are taken over each layer's inputs in the network that evaluates with "
            "them."
        )
    print_table(pd.DataFrame.from_dict(rows, orient="index", columns=columns), caption)


def _parser() -> argparse.ArgumentParser:
    parser = make_parser("evaluate", __doc__)
    add = parser.add_argument
    add("workdir", type=Path, metavar="WORKDIR", help="the workdir of a run")
    names = "default: all of them; a name with commas in double quotes"
    add("--variants", type=_names, metavar="NAME,..", help=names)
    which = "default: %(default)s; best: of those kept, the most accurate (held-out, if so trained)"
    add("--checkpoint", default="last", metavar="last|best|STEP", help=which)
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in _STATISTICS.items())
    choices = tuple(_STATISTICS)
    add("--statistics", choices=choices, default="moving", help=f"{meanings} (default: moving)")
    where = "instead of TFDS_DATA_DIR and ~/tensorflow_datasets; the config's is not used"
    add("--data_dir", metavar="FOLDER", help=where)
    return parser


def _names(text: str) -> list[str]:
    return next(csv.reader([text])) or [text]  # an empty name is a mistake, not "all"


if __name__ == "__main__":
    main()
