r"""Compares public implementations of Batch Norm and Batch Renorm with the papers' formulas.

    python -m scripts.conformance --output=results/conformance.md

Each implementation trains for 30 steps on the inputs of tests/layers/golden.py, and what it gives
is compared with its float64 values. requirements-peers.txt lists what to install; the row of an
implementation that is not installed says so.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scripts import make_parser, publish, signed_page
from scripts.conformance_peers import IMPLEMENTATIONS, Implementation, Settings
from tests.layers.golden import SETTINGS, golden_vectors

_UNEXPLAINED = " unexplained"  # behind a deviation, in its cell


class Case(NamedTuple):
    """A column of the table."""

    name: str  # that of its golden data, unless `warmup` is given
    title: str
    about_renorm: bool = False
    warmup: int | None = None  # steps of Batch Norm, where an implementation has a schedule
    resumed_at: int | None = None

    @property
    def data(self) -> str:
        """The golden data that it trains on."""
        return self.name if self.warmup is None else "inside"

    def trajectory(self, implementation: Implementation) -> str:
        """What is expected, with the implementation's own schedule."""
        if self.warmup is None or implementation.warmup is None:
            return self.data
        return "ramp" if implementation.warmup == "ramp" else f"switch_{self.warmup}"

    def supported(self, implementation: Implementation) -> bool:
        """Whether the implementation has what the case is about."""
        if self.name == "warmup":
            return implementation.warmup is not None
        return self.name != "mask" or implementation.masks


CASES = (
    Case("inside", "r, d inside limits", about_renorm=True),
    Case("limits", "r, d at limits", about_renorm=True),
    Case("constant", "constant channel"),
    Case("tiny", "variance far below epsilon"),
    Case("offset", "mean 1e4, deviation 1"),
    Case("warmup", "after warm-up", about_renorm=True, warmup=5),
    Case("bfloat16", "bfloat16 input"),
    Case("mask", "mask"),
    Case("resumed", "resumed", warmup=20, resumed_at=15),
)


class Explanation(NamedTuple):
    """Why an implementation deviates, from its source; printed only where it does."""

    implementation: str  # beginning of the name
    # Cases by name, and "rule": what it does by design.
    cases: str
    text: str


EXPLANATIONS = (
    Explanation(
        "flax.",
        "offset",
        "The variance is E[x^2] - E[x]^2 in float32, which cancels (`_compute_stats` in "
        "flax/linen/normalization.py and flax/nnx/nn/normalization.py). Documented: the default, "
        "`use_fast_variance=True`, is 'less numerically stable'. With False the cell is exact.",
    ),
    Explanation(
        "equinox",
        "rule",
        "Training is exact. In evaluation, by design, both averages are divided by "
        "1 - momentum^steps, the correction of averages that start at 0 (`BatchNorm.__call__` in "
        "equinox/nn/_batch_norm.py with `mode='batch'`, commented 'Zero-debias').",
    ),
    Explanation(
        "equinox",
        "constant tiny offset bfloat16 resumed",
        "The average of the variance starts at 1, though (`init_hidden` in `BatchNorm.__init__`). "
        "The corrected one is too high by momentum^steps / (1 - momentum^steps), which with "
        "momentum 0.9 is 9 after one step and 0.04 after 30.",
    ),
    Explanation(
        "torch.",
        "rule",
        "Documented: `running_var` averages unbiased variances, m / (m - 1) times the biased ones "
        "(`BatchNorm1d` in torch/nn/modules/batchnorm.py). Training outputs are exact.",
    ),
    Explanation(
        "sbx",
        "rule",
        "By design, as in flax.linen's BatchNorm that it is adapted from, it averages the variance "
        "and not the deviation (`ra_var` in `BatchRenorm.__call__`, sbx/common/jax_layers.py).",
    ),
    Explanation(
        "sbx",
        "inside limits constant tiny offset warmup resumed",
        "Epsilon slips into r and d: `affine_var` is var_B / r^2, to which epsilon is added only "
        "afterwards, and `affine_mean` multiplies d by sqrt(var_B) without epsilon (same "
        "function). The smaller the variance, the less r and d do.",
    ),
    Explanation(
        "sbx",
        "constant offset",
        "The gradient of `jnp.sqrt(batch_var)` at variance 0 is not finite (same function), during "
        "the warm-up as well.",
    ),
    Explanation(
        "sbx",
        "limits offset",
        "The variance is that of flax.linen by default, E[x^2] - E[x]^2, which cancels; "
        "`use_fast_variance` is commented out (same class).",
    ),
    Explanation(
        "torchrl",
        "rule",
        "By design it averages variances ('running mean and variance', as documented), not "
        "deviations, and unbiased ones (`unbiased_var` in `BatchRenorm1d.forward`, "
        "torchrl/modules/models/batchrenorm.py).",
    ),
    Explanation(
        "torchrl",
        "inside limits constant tiny offset warmup bfloat16 resumed",
        "`unbiased_var` takes N for the number of values, which for inputs [N, C, L] is N L: here "
        "twice the biased variance instead of 4/3 of it (same function). With inputs [N, C] it is "
        "right.",
    ),
    Explanation(
        "torchrl",
        "warmup",
        "`warmup_factor`, commented '1 after warmup', goes on growing: it is the number of steps "
        "divided by `warmup_steps`, here up to 5, and what `num_batches_tracked.clamp_max()` "
        "returns is not used (same function).",
    ),
)


class Deviation(NamedTuple):
    """The largest deviation of a case, relative to the golden values."""

    value: float
    exact: bool

    def __str__(self) -> str:
        if self.exact:
            return "exact"
        return f"{self.value:.1e}" if np.isfinite(self.value) else "not finite"


class Result(NamedTuple):
    """A measured cell: against the papers, and against what the implementation does by design."""

    papers: Deviation
    own: Deviation | None

    def __str__(self) -> str:
        if self.own is None or self.papers.exact:
            return str(self.papers)
        return f"{self.papers} / {self.own}"

    def explanations(self, implementation: str, case: str) -> list[str] | None:
        """Texts that explain this cell; None if there is a deviation that none explains."""
        if self.papers.exact:
            return []
        wanted = {"rule"} if self.own else set()
        if self.own is None or not self.own.exact:
            wanted.add(case)
        found = {
            explanation.text: set(explanation.cases.split())
            for explanation in EXPLANATIONS
            if implementation.startswith(explanation.implementation)
            and wanted & set(explanation.cases.split())
        }
        return list(found) if wanted <= set().union(*found.values()) else None


def measure(implementation: Implementation, case: Case) -> Result:
    """Runs one implementation through one case."""
    golden, observed = golden_vectors(), _observe(implementation, case)
    papers = "batch_renorm" if implementation.renorm else "batch_norm"

    def deviation(rule: str) -> Deviation:
        values = []
        for quantity, value in observed.items():
            keys = [f"{case.trajectory(implementation)}/{r}/{quantity}" for r in (rule, papers)]
            # Values that a rule does not change are stored only under the papers'.
            expected = golden[keys[0] if keys[0] in golden else keys[1]]
            values.append(np.max(np.abs(value - expected)) / np.max(np.abs(expected)))
        largest = float(np.max(values))  # NaN where there is one
        return Deviation(largest, largest <= tolerance(case))

    own = implementation.own_rule
    return Result(deviation(papers), deviation(own) if own else None)


def tolerance(case: Case) -> float:
    """The largest deviation that counts as exact; the table's caption gives the reasons."""
    if case.name == "bfloat16":
        return 2.0**-7
    golden = golden_vectors()
    x = np.float64(golden[f"{case.data}/x"])
    counts = golden.get(f"{case.data}/mask", np.ones(x.shape[:-1], bool))[..., None]
    sigma = np.sqrt(np.var(x, (1, 2), where=counts) + SETTINGS["epsilon"])
    return 1e-5 + 2.0**-23 * float(np.max(np.max(np.abs(x * counts), (1, 2)) / sigma))


def _observe(implementation: Implementation, case: Case) -> dict[str, np.ndarray]:
    """All that is compared, by the golden vectors' names; with a mask, zero where it is false."""
    schedule = None if case.warmup is None else implementation.warmup
    settings = Settings(
        **SETTINGS,
        ramp=schedule == "ramp",
        warmup=case.warmup if case.warmup and schedule == "switch" else 0,
        dtype="bfloat16" if case.name == "bfloat16" else "float32",
    )
    golden = golden_vectors()
    x, mask = golden[f"{case.data}/x"], golden.get(f"{case.data}/mask")
    counts = np.ones(x.shape[:-1]) if mask is None else mask
    counts = counts[..., None].astype(np.float32)
    layer = implementation.make(settings)
    steps = []
    for t in range(len(x)):
        if t == case.resumed_at:
            saved = layer.save()
            layer = implementation.make(settings)
            layer.load(saved)
        y, dx = layer.train(x[t], golden["dy"][t] * counts[t], None if mask is None else mask[t])
        steps.append({"y": y * counts[t], "dx": dx * counts[t], **layer.statistics()})
    observed = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    if implementation.renorm and "var" in observed:
        observed["std"] = np.sqrt(observed.pop("var") + settings.epsilon)
    return {**observed, "evaluation": layer.evaluate(x[0]) * counts[0]}


class Table(NamedTuple):
    """Cells by row and column, and the notes that they refer to."""

    rows: dict[str, dict[str, str]]
    notes: list[str]


def compare(implementations: Sequence[Implementation] = IMPLEMENTATIONS) -> Table:
    """Measures every case of every implementation that is installed."""
    table = Table({}, [])
    for implementation in implementations:
        version = implementation.version()
        row = table.rows[implementation.name] = {"version": version or "not installed"}
        row |= {case.title: "" for case in CASES}
        if version is None:
            continue
        try:
            row |= {case.title: _cell(implementation, case, table) for case in CASES}
        except ImportError as error:
            row["version"] += f", cannot be imported: {error}"
    return table


def _cell(implementation: Implementation, case: Case, table: Table) -> str:
    """The text of a cell; adds to the table's notes."""
    if case.about_renorm and not implementation.renorm:
        return "–"
    if not case.supported(implementation):
        return "not supported"
    result = measure(implementation, case)
    texts = result.explanations(implementation.name, case.name)
    if texts is None:
        return f"{result}{_UNEXPLAINED}"
    table.notes.extend(text for text in texts if text not in table.notes)
    numbers = sorted(table.notes.index(text) + 1 for text in texts)
    return f"{result} [{', '.join(map(str, numbers))}]" if numbers else str(result)


_CAPTION = """\
Each implementation trains for 30 steps on inputs [2, 2, 3] (batch, length, features). Momentum is
{momentum:g}, epsilon {epsilon:g}, the scale is not 1, the bias is not 0, and Batch Renorm's limits
are r_max = {r_max:g} and d_max = {d_max:g}; other options keep their defaults. Compared with the
papers' formulas in float64 (tests/layers/reference.py) are, at each step, the output, the gradient
with respect to the input and both moving statistics, and at the end the evaluation output. A number
is the largest deviation among them: of each, the largest |value - golden| over all steps and
elements, divided by the largest |golden|. An implementation that averages something else by design
has a second number, after a slash: its deviation from golden vectors that average the same.

exact: at most 1e-5 + 2^-23 max|x| / sigma_B. The first term allows for float32's rounding (2^-24)
over sums and 30 steps. The second is twice what rounding the minibatch's mean to float32 does to
an output; with mean 1e4 the two come to {offset:.1e}, elsewhere to at most {others:.1e}. With
bfloat16 input: at most 2^-7, because bfloat16 rounds by 2^-9 and a gradient is a sum of up to four
such terms.

after warm-up: Batch Norm for 5 steps, then in sbx and torchrl the full limits at once, as they
document, and in bnrepro the paper's ramp, until step 20 for r and 15 for d. resumed: after 15 steps
the state is saved and loaded into a new layer, in the midst of that ramp or of a warm-up of 20
steps. mask: one value in four is 100 and does not count, nor does the loss depend on its output.
–: concerns Batch Renorm only."""


def report(table: Table) -> str:
    """The Markdown text."""
    import pandas as pd

    tolerances = {case.name: tolerance(case) for case in CASES if case.name != "bfloat16"}
    caption = _CAPTION.format(
        **SETTINGS, offset=tolerances.pop("offset"), others=max(tolerances.values())
    )
    notes = "\n".join(f"{number}. {text}" for number, text in enumerate(table.notes, 1))
    packages = dict.fromkeys(peer.package for peer in IMPLEMENTATIONS)
    return signed_page(
        "Implementations against the papers' formulas",
        pd.DataFrame.from_dict(table.rows, orient="index"),
        caption,
        notes,
        packages=(*packages, "jax", "numpy"),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares, and writes and prints the table.

    Raises:
      SystemExit: after a sentence on stderr; with code 2 if the table cannot be written, with code
        1 if a deviation has no explanation.
    """
    parser = make_parser("conformance", __doc__)
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("results/conformance.md"),
        metavar="FILE",
        help="a Markdown file (default: %(default)s)",
    )
    page = publish(parser.parse_args(arguments).output, lambda: report(compare()))
    if _UNEXPLAINED in page:
        sys.exit(f"Nothing explains the deviations in cells that say {_UNEXPLAINED.strip()!r}.")


if __name__ == "__main__":
    main()
