"""The state of a sweep: an Optuna study that all of its workers share through a storage.

Every trial has an index below the number of trials. Several trials have the same index if one was
retried or two machines enqueued it at once; the first that did not fail counts. Trials that are
trained together are a group, and keep its name when they are retried.
"""

import re
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback, fail_stale_trials
from optuna.trial import FrozenTrial, TrialState

from bnrepro.comparison.config import DEFAULTS
from bnrepro.comparison.plan import Group
from bnrepro.records import RecordsError, Row, differences
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import SweepError, encode, suggest

# Seconds between the heartbeats of a trial. One that misses three of them is retried.
HEARTBEAT = 20
# A trial whose workers died this often is no longer retried.
MAX_RETRIES = 10

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)
_SETTLED = (TrialState.WAITING, *_FINISHED)
_STORAGE_ERRORS = (sqlalchemy.exc.SQLAlchemyError, StorageInternalError)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker trains.

    Attributes:
      index: of the trial.
      settings: by flat key.
      trial: Optuna's.
      group: name and size of the group that the trial was part of when its last worker died.
    """

    index: int
    settings: dict[str, Any]
    trial: optuna.Trial
    group: tuple[str, int] | None

    @property
    def name(self) -> str:
        """What the trial is called in the records."""
        return trial_name(self.index)


def trial_name(index: int) -> str:
    """What the trial of that index is called in the records."""
    return f"trial {index}"


class SharedStudy:
    """A study from which workers take trials; to be closed."""

    def __init__(self, plan: Plan) -> None:
        """Opens the study, or makes it.

        Raises:
          SweepError: the storage cannot be used.
          RecordsError: it holds a study of that name with another plan.
        """
        self.plan = plan
        # Trials that this process has claimed and not finished, by id.
        self._held: dict[int, Claim] = {}
        # Whether trials that ran out of retries get another chance.
        self._forgiving = True
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self._study = _open(plan)
        # SQLite lacks the row locks that keep two workers from taking one trial in other databases.
        file = _sqlite_file(plan.storage)
        self._alone = FileLock(f"{file}.lock") if file else nullcontext()
        known = self._study.user_attrs.get("identity")
        self._made = known is None
        if known is None:
            self._study.set_user_attr("identity", plan.identity)
        elif differing := differences(known, plan.identity, DEFAULTS):
            self.close()
            raise RecordsError(
                f"{_without_password(plan.storage)} holds another sweep named {plan.name} "
                f"({'; '.join(differing)}); choose another --workdir, or use the same "
                "values to resume"
            )

    def close(self) -> None:
        """Closes the connections to the storage."""
        self._storage.engine.dispose()

    def trials(self) -> dict[int, FrozenTrial]:
        """The trials that count, by index; the last one if all trials of an index failed.

        Raises:
          SweepError: the storage has become unusable.
        """
        with _told_in_a_sentence(self.plan):
            everything = self._study.get_trials(deepcopy=False)
        counting: dict[int, FrozenTrial] = {}
        for trial in everything:
            index = trial.user_attrs["index"]
            if index not in counting or counting[index].state == TrialState.FAIL:
                counting[index] = trial
        return dict(sorted(counting.items()))

    def refill(self) -> dict[int, FrozenTrial]:
        """Retries the trials of dead workers, and enqueues those not yet enqueued.

        Returns:
          The trials as they were before any was enqueued.

        Raises:
          SweepError: a trial was started many times and never finished; or see `trials`.
        """
        # Optuna warns that this is experimental.
        with warnings.catch_warnings(action="ignore"), _told_in_a_sentence(self.plan):
            fail_stale_trials(self._study)
            trials = self.trials()
            for index in range(self.plan.count):
                trial = trials.get(index)
                if trial is not None and trial.state != TrialState.FAIL:
                    continue
                retries = trial and RetryHeartbeatStaleTrialCallback.retry_history(trial)
                if retries and len(retries) >= MAX_RETRIES and not self._forgiving:
                    raise SweepError(
                        f"{trial_name(index)} was started {MAX_RETRIES + 1} times and never "
                        "finished: its workers died, perhaps for lack of memory; try a smaller "
                        "--at-once"
                    )
                self._enqueue(index, trial)
        self._forgiving = False
        return trials

    def _enqueue(self, index: int, failed: FrozenTrial | None) -> None:
        group = failed.user_attrs.get("group") if failed else None
        like: FrozenTrial | optuna.trial.FixedTrial | None = failed
        if self.plan.points:
            like = optuna.trial.FixedTrial(encode(self.plan.points[index]))
            suggest(self.plan.space, like)
        # With all settings, since each would cost another transaction later.
        trial = optuna.trial.create_trial(
            state=TrialState.WAITING,
            params=like.params if like else {},
            distributions=like.distributions if like else {},
            user_attrs={"index": index, "group": group},
        )
        self._study.add_trial(trial)

    def is_waiting(self) -> bool:
        """Whether there are trials to take."""
        return any(self._waiting(self.trials()))

    def _waiting(
        self, trials: Mapping[int, FrozenTrial]
    ) -> tuple[list[list[FrozenTrial]], list[FrozenTrial]]:
        """Waiting trials: whole groups whose workers died, and single trials."""
        # An earlier command may have asked for more trials.
        wanted = [trial for index, trial in trials.items() if index < self.plan.count]
        by_group = defaultdict[tuple[str, int] | None, list[FrozenTrial]](list)
        for trial in wanted:
            by_group[_group(trial)].append(trial)
        groups, singles = list[list[FrozenTrial]](), list[FrozenTrial]()
        for group, members in by_group.items():
            waiting = [trial for trial in members if trial.state == TrialState.WAITING]
            if group and len(waiting) == group[1]:
                groups.append(waiting)
            # The missing trials of a group may soon be retried.
            elif not group or all(trial.state in _SETTLED for trial in members):
                singles += waiting
        return groups, singles

    def claim(self, how_many: Callable[[Group, int], int]) -> list[Claim]:
        """Takes trials out of the queue, so that no other worker gets them.

        Args:
          how_many: returns the most trials of a group to take, given how many of the sweep have
            not finished.

        Returns:
          A whole group whose worker died, or else trials that share a program if their settings
          are known beforehand. Empty if there is nothing to take.
        """
        trials = self.trials()
        groups, singles = self._waiting(trials)
        for first, *others in groups:
            # The worker that gets the first of a group gets the others.
            if claim := self._take(first):
                return [claim, *filter(None, map(self._take, others))]
        unfinished = sum(trial.state not in _FINISHED for trial in trials.values())
        claims, most, points = list[Claim](), 1, self.plan.points
        group: Group | None = None
        for waiting in singles:
            if len(claims) == most:
                break
            if group and points and self._group_of(points[waiting.user_attrs["index"]]) != group:
                continue
            if claim := self._take(waiting):
                claims.append(claim)
                if group is None:
                    group = self._group_of(claim.settings)
                    most = how_many(group, unfinished)
        return claims

    def _group_of(self, settings: dict[str, Any]) -> Group:
        (group,) = self.plan.groups({"trial": settings})
        return group

    def _take(self, waiting: FrozenTrial) -> Claim | None:
        """Takes a trial; returns None if another worker was faster.

        `Study.ask` would read all unfinished trials each time, which is too slow for hundreds, and
        it records no heartbeat.
        """
        index, trial_id = waiting.user_attrs["index"], waiting._trial_id
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
        self._held[trial_id] = claim = Claim(index, settings, trial, _group(waiting))
        return claim

    @contextmanager
    def alive(self) -> Iterator[None]:
        """Records heartbeats of the claimed trials; at the end, hands back unfinished ones.

        Raises:
          SweepError: the storage has become unusable.
        """
        done = Event()

        def beat() -> None:
            while not done.wait(HEARTBEAT):
                for trial_id in list(self._held):
                    with suppress(*_STORAGE_ERRORS):  # the next heartbeat may be in time
                        self._storage.record_heartbeat(trial_id)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            with _told_in_a_sentence(self.plan):
                yield
        finally:
            done.set()
            thread.join()
            with suppress(*_STORAGE_ERRORS):  # if it fails, they are retried later
                while self._held:
                    _, claim = self._held.popitem()
                    failed = self._study.tell(
                        claim.trial, state=TrialState.FAIL, skip_if_finished=True
                    )
                    self._enqueue(claim.index, failed)

    def begin(self, claims: Sequence[Claim]) -> str:
        """Makes these trials a group, and returns its name."""
        group = uuid4().hex, len(claims)
        for claim in claims:
            with suppress(UpdateFinishedTrialError):
                claim.trial.set_user_attr("group", group)
        return group[0]

    def report(self, first: Claim, step: int) -> None:
        """Reports the progress of this trial's group to the other workers."""
        # If this worker was presumed dead, the trial may belong to another.
        with suppress(UpdateFinishedTrialError):
            first.trial.set_user_attr("step", step)

    def hopeless(self, claim: Claim, score: float, step: int) -> bool:
        """Whether a trial with this score at this step should be pruned."""
        try:
            claim.trial.report(score, step)
        except UpdateFinishedTrialError:
            return False
        return bool(claim.trial.should_prune())

    def finish(
        self, claim: Claim, score: float, rows: Sequence[Row], seconds: float, *, pruned: bool
    ) -> None:
        """Stores a trial's result, unless its worker was presumed dead and another has it now."""
        result = {"rows": [row[1:] for row in rows], "seconds": round(seconds, 1)}
        values, state = (None, TrialState.PRUNED) if pruned else (score, TrialState.COMPLETE)
        with suppress(UpdateFinishedTrialError):
            claim.trial.set_user_attr("result", result)
            self._study.tell(claim.trial, values, state=state, skip_if_finished=True)
        self._held.pop(claim.trial._trial_id, None)

    def register(self, provenance: Mapping[str, Any]) -> None:
        """Stores the provenance of this worker's numbers.

        Raises:
          RecordsError: earlier workers have another data set.
        """
        known = self.provenance()
        if known and known["dataset"] != provenance["dataset"]:
            raise RecordsError(
                f"this worker has {provenance['dataset']}, but the others have {known['dataset']}"
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

    def discard(self) -> bool:
        """Deletes the study if this made it and no trial was started; returns whether it did."""
        begun = (TrialState.RUNNING, *_FINISHED)
        if not self._made or any(trial.state in begun for trial in self.trials().values()):
            return False
        optuna.delete_study(study_name=self.plan.name, storage=self._storage)
        return True


def finished(trials: Mapping[int, FrozenTrial]) -> dict[int, FrozenTrial]:
    """The trials that completed or were pruned, by index."""
    return {index: trial for index, trial in trials.items() if trial.state in _FINISHED}


def groups_at_work(trials: Mapping[int, FrozenTrial]) -> dict[str, str]:
    """The group of each trial that is being trained or was interrupted, both by name."""
    at_work = (TrialState.RUNNING, TrialState.WAITING)
    return {
        trial_name(index): group[0]
        for index, trial in trials.items()
        if trial.state in at_work and (group := _group(trial))
    }


def _group(trial: FrozenTrial) -> tuple[str, int] | None:
    # It names a folder and comes from a shared storage: accept only names that `begin` makes.
    match trial.user_attrs.get("group"):
        case [str(name), int(size)] if re.fullmatch("[0-9a-f]{32}", name):
            return name, size
    return None


def _sqlite_file(url: str) -> str | None:
    """The file of an SQLite database, "" if it has none; None for another database."""
    parts = sqlalchemy.make_url(url)
    return parts.database or "" if parts.get_backend_name() == "sqlite" else None


def _open(plan: Plan) -> tuple[RDBStorage, optuna.Study]:
    # If several workers create the tables at the same time, all but one fail.
    attempts = 3
    while True:
        storage = None
        try:
            file = _sqlite_file(plan.storage)
            if file in ("", ":memory:"):
                raise ValueError("workers do not share memory; name a file, as in sqlite:///FILE")
            with warnings.catch_warnings(action="ignore"):
                storage = RDBStorage(
                    plan.storage,
                    # Seconds until a write stops waiting for another.
                    engine_kwargs={"connect_args": {"timeout": 60}} if file else None,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=3 * HEARTBEAT,
                    heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(MAX_RETRIES),
                )
            pruners = optuna.pruners
            return storage, optuna.create_study(
                study_name=plan.name,
                storage=storage,
                direction="maximize",
                load_if_exists=True,
                pruner=pruners.MedianPruner() if plan.prune else pruners.NopPruner(),
            )
        except Exception as error:  # SQLAlchemy and each database's driver raise any kind
            if storage is not None:
                storage.engine.dispose()
            attempts -= 1
            if not attempts:
                raise _unusable(plan, error) from error
            time.sleep(0.5)


@contextmanager
def _told_in_a_sentence(plan: Plan) -> Iterator[None]:
    try:
        yield
    except _STORAGE_ERRORS as error:
        raise _unusable(plan, error) from error


def _unusable(plan: Plan, error: Exception) -> SweepError:
    # A missing driver is named only in the cause; SQLAlchemy's errors end with lines of advice.
    error = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SweepError(f"cannot use the storage {_without_password(plan.storage)}: {reason}")


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url
