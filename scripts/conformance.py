r"""Compares public implementations of Batch Norm and Batch Renorm with the papers' formulas.

    python -m scripts.conformance --output=results/conformance.md

Each implementation trains for 30 steps on the inputs of tests/layers/golden.py, and what it gives
is compared with the float64 values from there. requirements-peers.txt lists what to install; the
row of an implementation that is not installed says so.
"""

import math
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scripts import make_parser, publish, signed_page
from scripts.conformance_peers import IMPLEMENTATIONS, Implementation, Settings
from tests.layers import golden

_UNEXPLAINED = " unexplained"  # behind a deviation, in its cell


class Case(NamedTuple):
    """A column of the table."""

    name: str  # that of its inputs, unless `warmup` is given
    title: str
    about_renorm: bool = False
    warmup: int | None = None  # steps of Batch Norm, where an implementation has a schedule
    resumed_at: int | None = None

    @property
    def data(self) -> str:
        """The name of its inputs."""
        return self.name if self.warmup is None else "inside"

    def limits(self, implementation: Implementation) -> Any:
        """r_max and d_max of each step, by the implementation's own schedule."""
        if self.warmup is None or implementation.warmup is None:
            return golden.switched(0)
        return golden.RAMP if implementation.warmup == "ramp" else golden.switched(self.warmup)

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


# Why implementations deviate, from their sources: the beginning of a name, cases by their names,
# where "rule" is what they do by design, and the text, which is printed only where they do.
EXPLANATIONS = (
    (
        "flax.",
        "offset",
        "The variance is E[x^2] - E[x]^2 in float32, which cancels (`_compute_stats` in "
        "flax/linen/normalization.py and flax/nnx/nn/normalization.py). Documented: the default, "
        "`use_fast_variance=True`, is 'less numerically stable'. With False the cell is exact.",
    ),
    (
        "equinox",
        "rule",
        "Training is exact. In evaluation, by design, both averages are divided by "
        "1 - momentum^steps, the correction of averages that start at 0 (`BatchNorm.__call__` in "
        "equinox/nn/_batch_norm.py with `mode='batch'`, commented 'Zero-debias').",
    ),
    (
        "equinox",
        "constant tiny offset bfloat16 resumed",
        "The average of the variance starts at 1, though (`init_hidden` in `BatchNorm.__init__`). "
        "The corrected one is too high by momentum^steps / (1 - momentum^steps), which with "
        "momentum 0.9 is 9 after one step and 0.04 after 30.",
    ),
    (
        "torch.",
        "rule",
        "Documented: `running_var` averages unbiased variances, m / (m - 1) times the biased ones "
        "(`BatchNorm1d` in torch/nn/modules/batchnorm.py). Training outputs are exact.",
    ),
    (
        "sbx",
        "rule",
        "By design, as in flax.linen's BatchNorm that it is adapted from, it averages the variance "
        "and not the deviation (`ra_var` in `BatchRenorm.__call__`, sbx/common/jax_layers.py).",
    ),
    (
        "sbx",
        "inside limits constant tiny offset warmup resumed",
        "Epsilon slips into r and d: `affine_var` is var_B / r^2, to which epsilon is added only "
        "afterwards, and `affine_mean` multiplies d by sqrt(var_B) without epsilon (same "
        "function). The smaller the variance, the less r and d do.",
    ),
    (
        "sbx",
        "constant offset",
        "The gradient of `jnp.sqrt(batch_var)` at variance 0 is not finite (same function), during "
        "the warm-up as well.",
    ),
    (
        "sbx",
        "limits offset",
        "The variance is that of flax.linen by default, E[x^2] - E[x]^2, which cancels; "
        "`use_fast_variance` is commented out (same class).",
    ),
    (
        "torchrl",
        "rule",
        "By design it averages variances ('running mean and variance', as documented), not "
        "deviations, and unbiased ones (`unbiased_var` in `BatchRenorm1d.forward`, "
        "torchrl/modules/models/batchrenorm.py).",
    ),
    (
        "torchrl",
        "inside limits constant tiny offset warmup bfloat16 resumed",
        "`unbiased_var` takes N for the number of values, which for inputs [N, C, L] is N L: here "
        "twice the biased variance instead of 4/3 of it (same function). With inputs [N, C] it is "
        "right.",
    ),
    (
        "torchrl",
        "warmup",
        "`warmup_factor`, commented '1 after warmup', goes on growing: it is the number of steps "
        "divided by `warmup_steps`, here up to 5, and what `num_batches_tracked.clamp_max()` "
        "returns is not used (same function).",
    ),
)


class Result(NamedTuple):
    """A measured cell: the largest deviations relative to the golden values, 0 where exact."""

    papers: float
    own: float | None  # from what the implementation does by design

    def __str__(self) -> str:
        shown = [self.papers]
        if self.papers and self.own is not None:
            shown.append(self.own)
        return " / ".join(
            "not finite" if not math.isfinite(each) else f"{each:.1e}" if each else "exact"
            for each in shown
        )

    def explanations(self, implementation: str, case: str) -> list[str] | None:
        """Texts that explain this cell; None if there is a deviation that none explains."""
        if not self.papers:
            return []
        wanted = {"rule"} if self.own is not None else set()
        if self.own != 0:
            wanted.add(case)
        found = {
            text: wanted & set(cases.split())
            for name, cases, text in EXPLANATIONS
            if implementation.startswith(name)
        }
        explained = wanted <= set().union(*found.values())
        return [text for text, cases in found.items() if cases] if explained else None


def measure(implementation: Implementation, case: Case) -> Result:
    """Runs one implementation through one case."""
    observed = _observe(implementation, case)

    def deviation(rule: str) -> float:
        expected = golden.expected(rule, case.data, case.limits(implementation))
        values = [
            np.max(np.abs(value - expected[quantity])) / np.max(np.abs(expected[quantity]))
            for quantity, value in observed.items()
        ]
        largest = float(np.max(values))  # NaN where there is one
        return 0 if largest <= tolerance(case) else largest

    own = implementation.own_rule
    papers = deviation("batch_renorm" if implementation.renorm else "batch_norm")
    return Result(papers, deviation(own) if own else None)


def tolerance(case: Case) -> float:
    """The largest deviation that counts as exact; the table's caption gives the reasons."""
    if case.name == "bfloat16":
        return 2.0**-7
    x, mask = golden.INPUTS[case.data]
    x, counts = np.float64(x), mask[..., None]
    sigma = np.sqrt(np.var(x, (1, 2), where=counts) + golden.EPSILON)
    return 1e-5 + 2.0**-23 * float(np.max(np.max(np.abs(x * counts), (1, 2)) / sigma))


def _observe(implementation: Implementation, case: Case) -> dict[str, np.ndarray]:
    """All that is compared, by its name in `golden`; with a mask, zero where it is false."""
    settings = Settings(
        warmup=case.warmup or 0,
        dtype="bfloat16" if case.name == "bfloat16" else "float32",
    )
    x, mask = golden.INPUTS[case.data]
    counts = mask[..., None].astype(np.float32)
    layer = implementation.make(settings)
    steps = []
    for t in range(len(x)):
        if t == case.resumed_at:
            saved, layer = layer, implementation.make(settings)
            layer.resume(saved)
        counted = mask[t] if case.name == "mask" else None
        y, dx = layer.train(x[t], golden.DY[t] * counts[t], counted)
        steps.append({"y": y * counts[t], "dx": dx * counts[t], **layer.statistics()})
    observed = {name: np.stack([step[name] for step in steps]) for name in steps[0]}
    if implementation.renorm and "var" in observed:
        observed["std"] = np.sqrt(observed.pop("var") + golden.EPSILON)
    return {**observed, "evaluation": layer.evaluate(x[0]) * counts[0]}


def compare(
    implementations: Sequence[Implementation] = IMPLEMENTATIONS,
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Measures every case of every implementation that is installed.

    Returns:
      Cells by row and column, and the notes that they refer to.
    """
    rows, notes = {}, dict[str, int]()
    for implementation in implementations:
        row = rows[implementation.name] = {"version": "not installed"}
        row |= {case.title: "" for case in CASES}
        try:
            row["version"] = version(implementation.package)
        except PackageNotFoundError:
            continue
        row |= {case.title: _cell(implementation, case, notes) for case in CASES}
    return rows, list(notes)


def _cell(implementation: Implementation, case: Case, notes: dict[str, int]) -> str:
    """The text of a cell; adds to the notes, which are numbered."""
    if case.about_renorm and not implementation.renorm:
        return "–"
    if not case.supported(implementation):
        return "not supported"
    result = measure(implementation, case)
    texts = result.explanations(implementation.name, case.name)
    if texts is None:
        return f"{result}{_UNEXPLAINED}"
    numbers = sorted(notes.setdefault(text, len(notes) + 1) for text in texts)
    return f"{result} [{', '.join(map(str, numbers))}]" if numbers else str(result)


_CAPTION = """\
Each implementation trains for 30 steps on inputs [2, 2, 3] (batch, length, features). Momentum is
{MOMENTUM:g}, epsilon {EPSILON:g}, the scale is not 1, the bias is not 0, and Batch Renorm's limits
are r_max = {R_MAX:g} and d_max = {D_MAX:g}; other options keep their defaults. Compared with the
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


def report(rows: dict[str, dict[str, str]], notes: list[str]) -> str:
    """The Markdown text."""
    tolerances = {case.name: tolerance(case) for case in CASES if case.name != "bfloat16"}
    caption = _CAPTION.format(
        **vars(golden), offset=tolerances.pop("offset"), others=max(tolerances.values())
    )
    listed = "\n".join(f"{number}. {text}" for number, text in enumerate(notes, 1))
    packages = dict.fromkeys(peer.package for peer in IMPLEMENTATIONS)
    return signed_page(
        "Implementations against the papers' formulas",
        pd.DataFrame.from_dict(rows, orient="index"),
        caption,
        listed,
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
    page = publish(parser.parse_args(arguments).output, lambda: report(*compare()))
    if _UNEXPLAINED in page:
        sys.exit(f"Nothing explains the deviations in cells that say {_UNEXPLAINED.strip()!r}.")


if __name__ == "__main__":
    main()
