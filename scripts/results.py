"""Reruns the comparisons in results/, and renews the tables of README and docs/results.md.

    python -m scripts.results  # all that are kept, which takes hours; resumes if interrupted
    python -m scripts.results --only=non_iid,moving_averages

Each result is run by its own command into runs/results/NAME; one that results/ does not hold yet,
only if --only names it. When it has finished, its records, table and figures replace those in
results/NAME, and each row of its table that README.md or docs/results.md shows is replaced by the
new one; the ledger replaces that in results/claims. What these pages say about the rows is for a
person to revise. Run it at a clean commit: provenance names it.

Exit codes: 0 done; 2 a mistake, told in one sentence; 75 asked to stop (SIGTERM) and 130
interrupted (Ctrl-C), both with the state saved; else that of the command that failed.
"""

import math
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bnrepro.errors import Preempted, UserError
from experiments import cli
from scripts import make_parser

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/results.md")
# The module and its arguments, but for the workdir.
COMMANDS = {
    "mnist_sigmoid": "experiments.mnist_sigmoid --config=configs/mnist_sigmoid.py "
    "--config.seeds=10",
    "mnist_sigmoid_rates": "experiments.mnist_sigmoid --config=configs/mnist_sigmoid_rates.py",
    "mnist_sigmoid_rates_best": "experiments.mnist_sigmoid "
    "--config=configs/mnist_sigmoid_rates.py:best",
    "mnist_sigmoid_retelling": "experiments.mnist_sigmoid "
    "--config=configs/mnist_sigmoid_retelling.py --config.seeds=10",
    "small_batch": "experiments.small_batch --config=configs/small_batch.py --config.seeds=10",
    "small_batch_inits": "experiments.mnist_sigmoid --config=configs/small_batch_inits.py "
    "--config.seeds=10",
    "small_batch_epsilons": "experiments.mnist_sigmoid --config=configs/small_batch_epsilons.py",
    "small_batch_cnn": "experiments.small_batch --config=configs/small_batch_cnn.py "
    "--config.seeds=10",
    "small_batch_cnn_rates": "experiments.mnist_sigmoid --config=configs/small_batch_cnn_rates.py",
    "small_batch_normalizers_mlp": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:mlp",
    "small_batch_normalizers_mlp_common": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:mlp_common",
    "small_batch_normalizers_cnn": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:cnn",
    "small_batch_normalizers_cnn_common": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:cnn_common",
    "small_batch_normalizers_tiny": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:tiny",
    "small_batch_normalizers_tiny_common": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:tiny_common",
    "small_batch_normalizers_rates_mlp": "experiments.train "
    "--config=configs/small_batch_normalizers_rates.py:mlp",
    "small_batch_normalizers_rates_cnn": "experiments.train "
    "--config=configs/small_batch_normalizers_rates.py:cnn",
    "small_batch_normalizers_rates_tiny": "experiments.train "
    "--config=configs/small_batch_normalizers_rates.py:tiny",
    "small_batch_normalizers_tiny_averages": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:tiny '--only=batch_norm 32,batch_norm 2,"
    "batch_renorm 32,batch_renorm 2' --config.ema_decay=0.999",
    "small_batch_normalizers_tiny_averages_common": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:tiny_common '--only=batch_renorm 32,"
    "batch_renorm 2' --config.ema_decay=0.999",
    "small_batch_normalizers_tiny_momentum": "experiments.small_batch "
    "--config=configs/small_batch_normalizers.py:tiny_common '--only=batch_norm 32,batch_norm 8,"
    "batch_norm 4,batch_norm 2,batch_renorm 32,batch_renorm 8,batch_renorm 4,batch_renorm 2' "
    "--config.first_seed=14000 --config.ema_decay=0.999 --config.normalizer.momentum=0.9",
    "filter_response_norm": "experiments.train "
    "--config=configs/small_batch_normalizers.py:mlp_common "
    "'--only=filter_response_norm 64' --config.normalizer.epsilon=1e-6",
    "filter_response_norm_rates": "experiments.train "
    "--config=configs/small_batch_normalizers_rates.py:mlp '--only=filter_response_norm rate 0_03,"
    "filter_response_norm rate 0_1,filter_response_norm rate 0_3,filter_response_norm rate 1' "
    "--config.normalizer.epsilon=1e-6",
    "non_iid": "experiments.non_iid --config=configs/non_iid.py --config.seeds=10",
    "labels_and_depth": "experiments.labels_and_depth --config=configs/labels_and_depth.py",
    "labels_and_depth_statistics": "experiments.labels_and_depth "
    "--config=configs/labels_and_depth.py '--only=18 16x2 batch_norm' --config.seeds=2 "
    "--config.evaluation.labels_per_batch=256 --config.evaluation.minibatches=10",
    "labels_and_depth_labels": "experiments.labels_and_depth "
    "--config=configs/labels_and_depth.py:labels",
    "labels_and_depth_long": "experiments.labels_and_depth "
    "--config=configs/labels_and_depth.py:long",
    "labels_and_depth_small": "experiments.labels_and_depth "
    "--config=configs/labels_and_depth.py:small",
    "few_labels_tiny": "experiments.non_iid --config=configs/few_labels_tiny.py",
    "few_labels_tiny_momentum": "experiments.non_iid --config=configs/few_labels_tiny.py "
    "--config.first_seed=24000 --config.normalizer.momentum=0.9",
    "renorm_tiny": "experiments.train --config=configs/renorm_tiny.py",
    "inception_narrow": "experiments.inception --config=configs/inception.py:narrow",
    "moving_averages": "experiments.train --config=configs/moving_averages.py",
    "placement_rates": "experiments.train --config=configs/placement_rates.py",
    "claims": "scripts.claims",
    "learning_rates": "scripts.sweep --config=configs/sweeps/learning_rates.py",
    "renorm_limits": "scripts.sweep --config=configs/sweeps/renorm_limits.py",
}


@cli.exit_codes(resumes=True)
def main(arguments: Sequence[str] | None = None) -> None:
    """Reruns the results that the command line names; see the module's docstring."""
    parser = make_parser("results", __doc__)
    parser.add_argument("--only", metavar="NAME,..", help=f"of {', '.join(COMMANDS)}")
    only = parser.parse_args(arguments).only
    kept = [name for name in COMMANDS if (ROOT / "results" / name).exists()]
    names = kept if only is None else only.split(",")
    unknown = [name for name in names if name not in COMMANDS]
    if unknown:
        raise UserError(f"--only names no result: {unknown[0]!r}; see --help")
    for number, name in enumerate(names, 1):
        print(f"result {number} of {len(names)}: {name}", file=sys.stderr)
        workdir = Path("runs", "results", name)
        command = [sys.executable, "-m", *shlex.split(COMMANDS[name]), f"--workdir={workdir}"]
        code = run(command)
        if code:
            sys.exit(code)
        if name == "claims":
            keep_ledger(ROOT / workdir, ROOT / "results" / name)
        else:
            keep(ROOT / workdir, ROOT / "results" / name, [ROOT / page for page in PAGES])


def run(
    command: Sequence[str],
    seconds: float = math.inf,
    environment: Mapping[str, str] | None = None,
) -> int:
    """The exit code of a command, `cli.PREEMPTED` if it did not end in time and was stopped.

    Raises:
      Preempted: this process was asked to stop (SIGTERM), as the command then was.
    """
    end = time.monotonic() + seconds
    cli.end_if_told()
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        try:
            while process.poll() is None:
                cli.end_if_told()
                if time.monotonic() > end:
                    process.terminate()
                    process.wait()
                    return cli.PREEMPTED
                time.sleep(0.2)
        except Preempted:
            process.terminate()
            raise
        except KeyboardInterrupt:
            # Ctrl-C reaches the command, too, which needs a moment to save its state.
            process.wait()
            raise
        return process.returncode


def keep_ledger(workdir: Path, result: Path) -> None:
    """Puts a ledger, and the records that it was read from, in place of those that are shown."""
    from bnrepro.claims.ledger import LEDGER, LEDGER_MD
    from bnrepro.records import CONFIG, METRICS, PROVENANCE

    for path in workdir.glob(f"*/{CONFIG}"):
        comparison = result / path.parent.name
        comparison.mkdir(parents=True, exist_ok=True)
        for name in (CONFIG, METRICS, PROVENANCE):
            shutil.copy(path.with_name(name), comparison)
    for name in (LEDGER, LEDGER_MD):
        shutil.copy(workdir / name, result)


def keep(workdir: Path, result: Path, pages: Sequence[Path]) -> None:
    """Puts what a workdir holds in place of a result, and its table in place of that on pages."""
    from bnrepro.records import (
        CONFIG,
        FIGURES,
        METRICS,
        PROVENANCE,
        SUMMARY_CSV,
        SUMMARY_MD,
        complete_file,
    )

    new = (workdir / SUMMARY_MD).read_text(encoding="utf-8")
    if (result / SUMMARY_MD).exists():
        old = (result / SUMMARY_MD).read_text(encoding="utf-8")
        texts = [renewed(page.read_text(encoding="utf-8"), old, new) for page in pages]
        for page, text in zip(pages, texts, strict=True):
            with complete_file(page) as path:
                path.write_text(text, encoding="utf-8")
    result.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(result / FIGURES, ignore_errors=True)
    if (workdir / FIGURES).exists():
        shutil.copytree(workdir / FIGURES, result / FIGURES)
    # The table comes last: where it is, all is.
    for name in (CONFIG, METRICS, PROVENANCE, SUMMARY_CSV, SUMMARY_MD):
        shutil.copy(workdir / name, result)


def renewed(text: str, old: str, new: str) -> str:
    """A page in which a table, in whole or some rows of it, is the new one.

    Raises:
      UserError: the page shows a row that the new table lacks.
    """
    before, after = _rows(old), _rows(new)

    def table(found: re.Match[str]) -> str:
        shown = found[0].splitlines()
        # Another table may have the same header.
        if not set(shown) <= set(before.values()):
            return found[0]
        if len(shown) == len(before):
            return "\n".join(after.values())
        labels = [label for label, line in before.items() if line in shown]
        if lost := [label for label in labels if label not in after]:
            raise UserError(f"a page shows the row {lost[0]!r}, which the new table lacks")
        return "\n".join(after[label] for label in labels)

    # A table with its caption, then without, or some of its rows.
    text = text.replace(old.strip(), new.strip())
    return re.sub(r"^\|.*(\n\|.*)*", table, text, flags=re.MULTILINE)


def _rows(summary: str) -> dict[str, str]:
    """The lines of a table by label; of the header and the rule below it, by what no label is."""
    header, rule, *lines = summary.split("\n\n")[0].splitlines()
    return {"|header": header, "|rule": rule} | {line.split("|")[1].strip(): line for line in lines}


if __name__ == "__main__":
    cli.heed_sigterm()
    main()
