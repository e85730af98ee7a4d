r"""Sweeps settings of a config: many trials, proposed by Optuna and trained as few programs.

    python -m scripts.sweep --config=configs/small_batch.py --workdir=runs/rates --seeds=3 \
        --vary "optimizer.learning_rate=log(0.01,3)" \
        --vary "normalizer.name=batch_norm,batch_renorm" --trials=64 --sampler=random

Values are a comma-separated list or a range: log(LOW,HIGH) or uniform(LOW,HIGH). The config file
can also define what is varied: its get_sweep() returns {key: values}. The config's variants are
ignored. The same command again, also on other machines, continues the sweep.
"""

import shutil
from collections.abc import Mapping
from contextlib import suppress

from absl import flags
from ml_collections import config_flags

from bnrepro.errors import UserError, exit_codes
from bnrepro.records import CHECKPOINTS, CONFIG, Run, open_sweep
from bnrepro.report.report import Report, summarize
from bnrepro.report.sweep import Sweep
from bnrepro.report.sweep_figures import sweep_figures
from experiments import cli


@exit_codes(resumes=True)
def main() -> None:
    """Runs the sweep that the command line describes, and reports it.

    Exit codes: 0 done; 2 a usage error, reported in one sentence on stderr; 75 asked to stop
    (SIGTERM) and 130 interrupted (Ctrl-C), both with finished work saved.
    """
    flags.DEFINE_multi_string(
        "vary", [], "KEY=VALUES: A,B,.. or log(LOW,HIGH) or uniform(LOW,HIGH); once for each key."
    )
    flags.DEFINE_integer(
        "trials", None, "Number of trials; default of a grid of lists: all points.", lower_bound=1
    )
    flags.DEFINE_enum("sampler", "grid", ("grid", "random", "tpe", "qmc"), "grid by default.")
    flags.DEFINE_integer("seeds", None, "Seeds of each trial, like --config.seeds.")
    flags.DEFINE_integer("workers", None, "Default: one per GPU, else per core.", lower_bound=1)
    flags.DEFINE_string("at-once", "auto", "Trials to train together; auto: what the device holds.")
    flags.register_validator(
        "at-once",
        lambda text: text == "auto" or (text.isdecimal() and int(text) > 0),
        "must be auto or a number of trials",
    )
    flags.DEFINE_enum("engine", "local", ("local", "ray"), "Processes here, or a Ray cluster.")
    flags.DEFINE_string("storage", None, "URL of a database; default: sweep.db in the workdir.")
    flags.DEFINE_bool("prune", False, "Stop trials that are below the median of the others.")
    config, workdir = cli.parse(__doc__ or "")
    values = flags.FLAGS.flag_values_dict()
    flag = flags.FLAGS["config"]
    file = config_flags.get_config_filename(flag)
    overrides = config_flags.get_override_values(flag)
    varied = cli.call(path := file.partition(":")[0], "get_sweep", default={})
    if not isinstance(varied, Mapping):
        raise UserError(f"get_sweep() of {path} must return a dict of key: values, got {varied!r}")

    # Imported only now, so that --help and a mistyped flag need not wait for JAX.
    import jax

    from bnrepro.sweep.engines import import_ray, run_local, run_ray
    from bnrepro.sweep.plan import make_plan
    from bnrepro.sweep.progress import BEST, Display, check_storage, collect
    from bnrepro.sweep.study import SharedStudy, groups_at_work
    from bnrepro.sweep.worker import load_data

    cli.quiet_logging()
    cli.heed_sigterm()
    jax.config.update("jax_platforms", "cpu")  # GPUs and TPUs are for the workers
    plan = make_plan(config, varied, values, workdir, file, overrides)
    engine = run_local if values["engine"] == "local" else run_ray
    # A cluster's data may be elsewhere. Its workers check them, and those of a sweep that goes on.
    if not (workdir / CONFIG).exists():
        if engine is run_local:
            load_data(plan)
        else:
            import_ray()
    trackers = cli.make_trackers()
    open_sweep(workdir)
    try:
        study = SharedStudy(plan)
    except UserError:
        with suppress(OSError):  # fails, as intended, if it is not empty
            workdir.rmdir()
        raise
    with study:
        check_storage(study, workdir)
        display = Display(study, workdir, trackers)

        def watch() -> int | None:
            cli.end_if_told()
            return None if display.update() else study.waiting()

        try:
            with display.live:
                if watch() is not None:
                    engine(plan, values["workers"], watch)
            # An earlier command may have asked for more trials, which it can resume.
            if not groups_at_work(study.trials()):
                shutil.rmtree(workdir / CHECKPOINTS, ignore_errors=True)
        finally:
            run = collect(study, workdir, trackers)
    assert run is not None  # all trials have ended
    cli.show(run, report(run), BEST)
    if commands := Sweep(run).best_commands():
        print("To train the best again (--config.first_seed=N for other seeds):\n")
    else:
        print("No trial finished with all seeds, so there is no best.")
    for command in commands:
        print(f"  {command}")


def report(run: Run) -> Report:
    """All trials, the best first, and accuracy against the varied settings."""
    sweep = Sweep(run)
    summary = summarize(sweep.tested)
    return Report(summary, sweep.table(), sweep.caption(), sweep_figures(sweep))


if __name__ == "__main__":
    main()
