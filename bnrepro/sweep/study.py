"""The state of a sweep: an Optuna study that all of its workers share through a storage.

Every trial has an index below the number of trials. Several trials have the same index if one was
retried or two machines enqueued it at once; the first that did not fail counts. Only trials whose
workers died have failed. Trials that are trained together are a group, and keep its name, that of
the folder of their checkpoints, when they are retried.
"""

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from bnrepro.comparison.config import DEFAULTS
from bnrepro.comparison.plan import Group
from bnrepro.errors import first_line
from bnrepro.records import CONFIG, RecordsError, Row, differences
from bnrepro.sweep.plan import Plan, identity
from bnrepro.sweep.space import SweepError, distributions, encode, suggest

# Seconds between the heartbeats of a trial. One that misses three of them is retried.
HEARTBEAT = 20
# A trial whose workers died this often during one command is no longer retried.
MAX_RETRIES = 10

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
# A group's rows so far, as JSON beside its checkpoints, where a name in .json is of checksums.
ROWS = "rows"
_STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, StorageInternalError)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker trains.

    Attributes:
      index: of the trial.
      settings: by flat key.
      trial: Optuna's.
      group: that the trial was part of when its last worker ended.
    """

    index: int
    settings: dict[str, Any]
    trial: optuna.Trial
    group: str | None

    @property
    def name(self) -> str:
        """What the trial is called in the records."""
        return trial_name(self.index)


def trial_name(index: int) -> str:
    """What the trial of that index is called in the records."""
    return f"trial {index}"


class SharedStudy:
    """A study from which workers take trials: a context manager, or to be closed.

    Within the context, a storage that becomes unusable raises a SweepError. What is said of a
    claimed trial raises an UpdateFinishedTrialError if its worker was presumed dead: another may be
    training it now.
    """

    def __init__(self, plan: Plan) -> None:
        """Opens the study, or makes it.

        Raises:
          SweepError: the storage cannot be used.
          RecordsError: it holds a study of that name with another plan, or of someone else.
        """
        self.plan = plan
        # The ids, by number, of trials that this process has claimed and not finished.
        self._held = dict[int, int]()
        # How often this process has retried the trial of each index.
        self._retries = Counter[int]()
        self._storage, self._study = _open(plan)
        self._study_id = self._storage.get_study_id_from_name(plan.name)
        # SQLite lacks the row locks that keep two workers from taking one trial in other databases.
        url = self._storage.engine.url
        lite = url.get_backend_name() == "sqlite"
        self._alone = FileLock(f"{url.database}.lock") if lite else nullcontext()
        # In this order, since who makes a study says what it is of before any trial is enqueued.
        used = bool(self._study.get_trials(deepcopy=False))
        known, ours = self._study.user_attrs.get("identity"), identity(plan.config, plan.described)
        if known is None and not used:
            self._study.set_user_attr("identity", ours)
        elif differing := differences(known or {}, ours, DEFAULTS):
            self.close()
            why = "; ".join(differing) if known else "not one of ours"
            raise RecordsError(
                f"{url!r} holds another study named {plan.name} ({why}); choose another --workdir "
                "or --storage, or use the same values to resume"
            )

    def __enter__(self) -> "SharedStudy":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.close()
        if isinstance(error, _STORAGE_ERRORS):
            raise _unusable(self.plan, error) from error

    def close(self) -> None:
        """Closes the connections to the storage."""
        self._storage.engine.dispose()

    def trials(self) -> dict[int, FrozenTrial]:
        """The trials that count, by index; the last one if all trials of an index failed."""
        found: dict[int, FrozenTrial] = {}
        for trial in self._study.get_trials(deepcopy=False):
            index = trial.user_attrs["index"]
            if index not in found or found[index].state == TrialState.FAIL:
                found[index] = trial
        return dict(sorted(found.items()))

    def refill(self) -> dict[int, FrozenTrial]:
        """Retries the trials of dead workers, and enqueues those not yet enqueued.

        Returns:
          The trials as they were before any was enqueued.

        Raises:
          SweepError: a trial was started many times and never finished.
        """
        with warnings.catch_warnings(action="ignore"):  # Optuna's: this is experimental
            fail_stale_trials(self._study)
        found, known = self.trials(), distributions(self.plan.space)
        for index in range(self.plan.count):
            failed = found.get(index)
            if failed and failed.state != TrialState.FAIL:
                continue
            self._retries[index] += failed is not None
            if self._retries[index] > MAX_RETRIES:
                raise SweepError(
                    f"{trial_name(index)} was started {MAX_RETRIES + 1} times and never finished: "
                    "its workers died, perhaps for lack of memory; try a smaller --at-once"
                )
            # With all settings that are known, since each would cost another transaction later.
            # Those of a retried trial stay: another order of the keys makes other points.
            points = self.plan.points
            params = failed.params if failed else encode(points[index]) if points else {}
            group = failed.user_attrs.get("group") if failed else None
            trial = optuna.trial.create_trial(
                state=TrialState.WAITING,
                params=params,
                distributions={key: known[key] for key in params},
                user_attrs={"index": index, "group": group},
            )
            self._study.add_trial(trial)
        return found

    def waiting(self) -> int:
        """How many trials there are to take."""
        return len(self._waiting(self.trials()))

    def _waiting(self, trials: Mapping[int, FrozenTrial]) -> list[FrozenTrial]:
        # An earlier command may have asked for more trials.
        wanted = (trial for index, trial in trials.items() if index < self.plan.count)
        return [trial for trial in wanted if trial.state == TrialState.WAITING]

    def claim(self, how_many: Callable[[Group, int], int]) -> list[Claim]:
        """Takes trials out of the queue, so that no other worker gets them.

        Args:
          how_many: returns the most trials of a group to take, given how many of the sweep have
            not finished.

        Returns:
          Trials of one group whose worker ended, or of none; they share a program if their settings
          are known beforehand. Empty if there is nothing to take.
        """
        trials = self.trials()
        waiting = iter(self._waiting(trials))
        first = next(filter(None, map(self._take, waiting)), None)
        if first is None:
            return []
        waiting = (trial for trial in waiting if _group(trial) == first.group)
        group, points = self._group_of(first.settings), self.plan.points
        if points:
            waiting = (t for t in waiting if self._group_of(points[t.user_attrs["index"]]) == group)
        unfinished = sum(trial.state not in FINISHED for trial in trials.values())
        others = filter(None, map(self._take, waiting))
        return [first, *islice(others, how_many(group, unfinished) - 1)]

    def _group_of(self, settings: dict[str, Any]) -> Group:
        (group,) = self.plan.groups({"trial": settings})
        return group

    def _take(self, waiting: FrozenTrial) -> Claim | None:
        """Takes a trial; returns None if another worker was faster.

        `Study.ask` would read all unfinished trials each time, which is too slow for hundreds, and
        it records no heartbeat.
        """
        index, number = waiting.user_attrs["index"], waiting.number
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        # Before taking the trial, since one without any heartbeat is never retried.
        self._storage.record_heartbeat(trial_id)
        try:
            with self._alone:
                if not self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    return None
        except UpdateFinishedTrialError:
            return None
        # Each trial has its own seed, so that workers do not draw the same. Only TPE draws here;
        # with the other samplers, trials are enqueued with their settings.
        self._study.sampler = optuna.samplers.TPESampler(seed=index)
        trial = optuna.Trial(self._study, trial_id)
        settings = suggest(self.plan.space, trial)
        self._held[number] = trial_id
        return Claim(index, settings, trial, _group(waiting))

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Records heartbeats of the claimed trials; at the end, hands back unfinished ones."""
        done = Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT):
                for trial_id in list(self._held.values()):
                    with suppress(*_STORAGE_ERRORS):  # the next heartbeat may be in time
                        self._storage.record_heartbeat(trial_id)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.hand_back(list(self._held))

    def lost(self) -> bool:
        """Whether a claimed trial is no longer this process's, as its worker was presumed dead."""
        states = [self._storage.get_trial(trial_id).state for trial_id in self._held.values()]
        return any(state != TrialState.RUNNING for state in states)

    def hand_back(self, numbers: Iterable[int]) -> None:
        """Lets others take the claimed trials of these numbers that have not finished."""
        for number in numbers:
            # If the storage fails, they are retried later; if they have failed, already are.
            with suppress(*_STORAGE_ERRORS, UpdateFinishedTrialError):
                if trial_id := self._held.pop(number, None):
                    self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def begin(self, claims: Sequence[Claim], group: str) -> None:
        """Makes these trials a group of that name."""
        for claim in claims:
            claim.trial.set_user_attr("group", group)

    def report(self, claims: Sequence[Claim], step: int) -> None:
        """Reports the progress of trials that are trained together: their steps, at the first."""
        claims[0].trial.set_user_attr("steps", step * len(claims))

    def hopeless(self, claim: Claim, score: float, step: int) -> bool:
        """Whether a trial with this score at this step should be pruned."""
        # Optuna warns of a step that was reported before, as by a trial that started over.
        with warnings.catch_warnings(action="ignore"):
            claim.trial.report(score, step)
        return bool(claim.trial.should_prune())

    def finish(
        self, claim: Claim, score: float | None, rows: Sequence[Row], seconds: float
    ) -> None:
        """Stores a trial's result: no score if it was pruned, and the seconds of this worker."""
        result = {"rows": [row[1:] for row in rows], "seconds": round(seconds, 1)}
        state = TrialState.PRUNED if score is None else TrialState.COMPLETE
        claim.trial.set_user_attr("result", result)
        self._study.tell(claim.trial, score, state=state, skip_if_finished=True)
        self._held.pop(claim.trial.number, None)

    def register(self, provenance: Mapping[str, Any]) -> None:
        """Stores the provenance of this worker's numbers.

        Raises:
          RecordsError: earlier workers have another data set.
        """
        known = self.provenance()
        here = {key: provenance.get(key) for key in ("dataset", "sha256")}
        there = {key: known.get(key) or value for key, value in here.items()}  # it may not say
        if here != there:
            other = " with other content" * (here["dataset"] == there["dataset"])
            raise RecordsError(
                f"this worker has {here['dataset']}{other}, but the others have {there['dataset']}"
            )
        self._study.set_user_attr(f"worker {uuid4().hex}", dict(provenance))

    def provenance(self) -> dict[str, Any]:
        """The provenance of the numbers: the first worker's, with later ones in `workers`."""
        attributes = self._study.user_attrs.items()
        workers = [value for key, value in attributes if key.startswith("worker ")]
        if not workers:
            return {}
        first, *others = sorted(workers, key=lambda worker: worker["started"])
        return first | {"workers": others}


def finished(trials: Mapping[int, FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trials that completed or were pruned, by index."""
    return {index: trial for index, trial in trials.items() if trial.state in FINISHED}


def groups_at_work(trials: Mapping[int, FrozenTrial]) -> dict[str, str]:
    """The group of each trial that is being trained or was interrupted, both by name."""
    return {
        trial_name(index): group
        for index, trial in trials.items()
        if trial.state not in FINISHED and (group := _group(trial))
    }


def _group(trial: FrozenTrial) -> str | None:
    # It names a folder and comes from a shared storage: accept only names of the form of ours.
    name = trial.user_attrs.get("group")
    return name if isinstance(name, str) and re.fullmatch("[0-9a-f]{32}", name) else None


def _open(plan: Plan) -> tuple[RDBStorage, optuna.Study]:
    pruners = optuna.pruners
    # If several workers create the tables at the same time, all but one fail.
    attempts = 3
    while True:
        try:
            url = sqlalchemy.make_url(plan.storage)
            lite = url.get_backend_name() == "sqlite"
            if lite and url.database in (None, "", ":memory:"):
                raise ValueError("workers do not share memory; name a file, as in sqlite:///FILE")
            file = Path(url.database) if lite and url.database and "uri" not in url.query else None
            # Opening it would make it, and a storage that lacks the workdir's trials is refused.
            if file and not file.exists() and (plan.checkpoints.parent / CONFIG).exists():
                raise ValueError("no such file; give the one with the trials in the workdir")
            # Seconds until a write stops waiting for another. No pool, since its connections would
            # stay open where opening the study fails; a new one to a file costs little.
            kwargs = {"connect_args": {"timeout": 60}, "poolclass": sqlalchemy.NullPool}
            with warnings.catch_warnings(action="ignore"):
                storage = RDBStorage(
                    plan.storage,
                    engine_kwargs=kwargs if lite else None,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=3 * HEARTBEAT,
                )
            study = optuna.create_study(
                study_name=plan.name,
                storage=storage,
                direction="maximize",
                load_if_exists=True,
                pruner=pruners.MedianPruner() if plan.prune else pruners.NopPruner(),
            )
            return storage, study
        except Exception as error:  # SQLAlchemy and each database's driver raise any kind
            attempts -= 1
            if not attempts:
                raise _unusable(plan, error) from error
            time.sleep(0.5)


def _unusable(plan: Plan, error: BaseException) -> SweepError:
    # A missing driver is named only in the cause; SQLAlchemy's errors end with lines of advice.
    error = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    url = sqlalchemy.make_url(plan.storage)  # its repr has no password
    return SweepError(f"cannot use the storage {url!r}: {first_line(error)}")
