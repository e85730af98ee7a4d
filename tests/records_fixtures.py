"""A run small enough to compute its table by hand."""

from pathlib import Path

from bnrepro.records import Run, metric_rows

# Test accuracy at steps 0, 10, 20 of each (variant, seed).
ACCURACY = {
    ("plain", 0): (0.1, 0.90, 0.94),
    ("plain", 1): (0.1, 0.92, 0.90),
    ("plain", 2): (0.1, 0.88, 0.92),
    ("batch_norm", 0): (0.1, 0.95, 0.96),
    ("batch_norm", 1): (0.1, 0.91, 0.93),
    ("batch_norm", 2): (0.1, 0.96, 0.95),
}


def small_run(workdir: Path, accuracy=ACCURACY, extra=(), diverged=(), **changes) -> Run:
    """A run with this test accuracy, further rows, and these (variant, seed) diverged."""
    variants = sorted({variant for variant, _ in accuracy})
    names = {variant: "none" if variant == "plain" else variant for variant in variants}
    config = {"dataset": "mnist", "data_dir": "", "seeds": 3, "first_seed": 0, "steps": 20}
    config |= {"batch_size": 60, "eval_every": 10, "preview": False, "baseline": "plain"}
    config["variants"] = {key: {"normalizer": {"name": name}} for key, name in names.items()}
    rows = [
        (variant, seed, 10 * i, "test", "accuracy", value)
        for (variant, seed), values in accuracy.items()
        for i, value in enumerate(values)
    ]
    rows += [
        (variant, 0, 10 * i, "test", f"sigmoid_input/p{p}", p / 100 + i)
        for variant in variants
        for i in range(3)
        for p in (15, 50, 85)
    ]
    rows += [(*key, 15, "train", "diverged", 1.0) for key in diverged]
    provenance = {"dataset": "mnist/3.0.1", "stand_in": False}
    return Run(workdir, config | changes, metric_rows([*rows, *extra]), provenance)
