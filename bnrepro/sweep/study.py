"""The state of a sweep: Optuna's study, shared by all of its workers through a storage.

Every trial has an index, below the number of trials. Of several that have the same one, because a
worker died or two enqueued it at once, the first that did not fail counts.
"""

import os
import socket
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from threading import Event, Thread
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.trial import FrozenTrial, TrialState

from bnrepro.records import RecordsError, Row, differences
from bnrepro.sweep.plan import Plan
from bnrepro.sweep.space import SweepError, decode, distributions, encode

# A trial whose worker gave no sign of life for so long, in seconds, is another's.
_GRACE = 180
# Likewise if it took the trial and did not say yet who it is.
_CLAIMING = 30
# A trial that ended so many workers ends no more.
_ATTEMPTS = 10

_FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Claim:
    """A trial that this worker trains.

    Attributes:
      index: of the trial.
      settings: by flat key.
      trial: Optuna's.
    """

    index: int
    settings: dict[str, Any]
    trial: optuna.Trial

    @property
    def name(self) -> str:
        """Of the trial's variant in the records."""
        return trial_name(self.index)


def trial_name(index: int) -> str:
    """What a trial is called in the records."""
    return f"trial {index}"


class SharedStudy:
    """A study that workers take trials from."""

    def __init__(self, plan: Plan) -> None:
        """Opens the study, or makes it.

        Raises:
          SweepError: the storage cannot be used.
          RecordsError: it has a study of that name with another plan.
        """
        self.plan = plan
        # How many trials there had been before the first look at them.
        self._before: int | None = None
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._storage, self._study = _open(plan)
        # SQLite knows no lock of a row, by which other databases keep two workers from taking the
        # same trial.
        file = _sqlite_file(plan.storage)
        self._alone: AbstractContextManager[Any] = (
            FileLock(f"{file}.lock") if file else nullcontext()
        )
        known = self._study.user_attrs.get("identity")
        self._made = known is None
        if known is None:
            self._study.set_user_attr("identity", plan.identity)
        elif differing := differences(known, plan.identity):
            raise RecordsError(
                f"{_without_password(plan.storage)} holds another sweep named {plan.name} "
                f"({'; '.join(differing)}); choose another --workdir, or the same values to go on"
            )

    def trials(self) -> dict[int, FrozenTrial]:
        """The trial that counts of each index; that of an index whose trials all failed, its last.

        Raises:
          SweepError: the storage cannot be used any more.
        """
        return _counting(self._all())

    def refill(self) -> dict[int, FrozenTrial]:
        """Puts into the queue what is neither there, nor finished, nor somebody's who is alive.

        Returns:
          What `trials` gave before that.

        Raises:
          SweepError: a trial was begun many times, and never ended; or as `trials`.
        """
        with _no_warnings():
            optuna.storages.fail_stale_trials(self._study)
        everything = self._all()
        if dead := [trial for trial in _running(everything) if _is_dead(trial)]:
            for trial in dead:
                self._study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            everything = self._all()
        last = _counting(everything)
        self._before = len(everything) if self._before is None else self._before
        failures = Counter(
            trial.user_attrs.get("index")
            for trial in everything[self._before :]
            if trial.state == TrialState.FAIL
        )
        for index in range(self.plan.count):
            failed = last.get(index)
            if failed and failed.state != TrialState.FAIL:
                continue
            if failures[index] >= _ATTEMPTS:
                raise SweepError(
                    f"{trial_name(index)} was begun {_ATTEMPTS} times and never ended: its workers "
                    "died, for want of memory perhaps; take a smaller --at-once"
                )
            points = self.plan.points
            params = encode(points[index]) if points else failed.params if failed else {}
            self._study.enqueue_trial(params, user_attrs={"index": index})
        return last

    def is_waiting(self) -> bool:
        """Whether there are trials to take."""
        return any(self._is_waiting(trial) for trial in self._all())

    def claim(self, count: int) -> list[Claim]:
        """Takes up to so many trials out of the queue, which nobody else gets then."""
        everything = self._all()
        counting, claims = _counting(everything), list[Claim]()
        space = distributions(self.plan.space)
        for waiting in everything:
            if not self._is_waiting(waiting) or not self._take(waiting):
                continue
            index = waiting.user_attrs.get("index")
            if index is None or counting[index].number != waiting.number:
                self._study.tell(waiting.number, state=TrialState.FAIL)
                continue
            with _no_warnings():
                trial = self._trial(waiting, index)
                trial.set_user_attr("worker", _this_process())
                self._storage.record_heartbeat(trial._trial_id)
                for key, values in space.items():
                    _suggest(trial, key, values)
            claims.append(Claim(index, decode(self.plan.space, trial.params), trial))
            if len(claims) == count:
                break
        return claims

    def _is_waiting(self, trial: FrozenTrial) -> bool:
        # There are trials beyond the last if the sweep was to have more of them once.
        index = trial.user_attrs.get("index")
        return trial.state == TrialState.WAITING and (index is None or index < self.plan.count)

    def _take(self, waiting: FrozenTrial) -> bool:
        """Whether a trial is this worker's from now on, as `Study.ask` does it.

        That reads all unfinished trials of the study each time: too slow for hundreds.
        """
        try:
            with self._alone:
                return self._storage.set_trial_state_values(waiting._trial_id, TrialState.RUNNING)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False

    def _trial(self, waiting: FrozenTrial, index: int) -> optuna.Trial:
        # A study has one sampler: a study for each trial, whose sampler has a seed of its own. With
        # the same cache, which knows the trial already.
        cache = self._study._storage
        study = optuna.Study(self.plan.name, cache, self._sampler(index), self._study.pruner)
        return optuna.Trial(study, waiting._trial_id)

    @contextmanager
    def alive(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Tells the others, every now and then, that somebody has these trials."""
        done = Event()

        def beat() -> None:
            while not done.wait(_GRACE / 3):
                for claim in claims:
                    self._storage.record_heartbeat(claim.trial._trial_id)

        thread = Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def begin(self, claims: Sequence[Claim]) -> None:
        """Tells the others that these trials run together from now on."""
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            claims[0].trial.set_user_attr("together", [claim.index for claim in claims])

    def report(self, first: Claim, step: int) -> None:
        """Tells the others how far the trials are that run together with this one."""
        # It may be another's, if this worker was taken for dead.
        with suppress(optuna.exceptions.UpdateFinishedTrialError):
            first.trial.set_user_attr("step", step)

    def hopeless(self, claim: Claim, score: float, step: int) -> bool:
        """Whether a trial with this score at this step had better end."""
        try:
            claim.trial.report(score, step)
        except optuna.exceptions.UpdateFinishedTrialError:
            return False
        return bool(claim.trial.should_prune())

    def finish(
        self, claim: Claim, score: float, rows: Sequence[Row], seconds: float, *, pruned: bool
    ) -> None:
        """Keeps what a trial gave; nothing if it was taken for dead and is another's by now."""
        result = {"rows": [row[1:] for row in rows], "seconds": round(seconds, 1)}
        try:
            claim.trial.set_user_attr("result", result)
        except optuna.exceptions.UpdateFinishedTrialError:
            return
        if pruned:
            self._study.tell(claim.trial, state=TrialState.PRUNED, skip_if_finished=True)
        else:
            self._study.tell(claim.trial, score, skip_if_finished=True)

    def register(self, provenance: Mapping[str, Any]) -> None:
        """Keeps where this worker's numbers come from.

        Raises:
          RecordsError: the workers before had another data set.
        """
        known = self.provenance()
        if known and known["dataset"] != provenance["dataset"]:
            raise RecordsError(
                f"this worker has {provenance['dataset']}, and the others {known['dataset']}"
            )
        host, pid = _this_process()
        self._study.set_user_attr(f"worker {host} {pid}", dict(provenance))

    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from: what the first worker said, and the `workers` after it."""
        workers = [
            attribute
            for key, attribute in self._study.user_attrs.items()
            if key.startswith("worker ")
        ]
        if not workers:
            return {}
        first, *others = sorted(workers, key=lambda worker: worker["started"])
        return first | {"workers": others}

    def discard(self) -> bool:
        """Deletes the study if this made it, and nobody has anything in it; whether it did."""
        everything = self._all()
        alive = not all(_is_dead(trial) for trial in _running(everything))
        if not self._made or alive or finished(_counting(everything)):
            return False
        optuna.delete_study(study_name=self.plan.name, storage=self._storage)
        return True

    def _all(self) -> list[FrozenTrial]:
        try:
            return self._study.get_trials(deepcopy=False)
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            raise _unusable(self.plan, error) from error

    def _sampler(self, index: int) -> optuna.samplers.BaseSampler:
        """With a seed of the trial's own, or several workers would draw the same."""
        if self.plan.sampler == "tpe":
            return optuna.samplers.TPESampler(seed=index)
        return optuna.samplers.RandomSampler(seed=index)


def _running(everything: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in everything if trial.state == TrialState.RUNNING]


def _counting(everything: Sequence[FrozenTrial]) -> dict[int, FrozenTrial]:
    """By index, of each the trial that counts; of one whose trials all failed, the last."""
    counting: dict[int, FrozenTrial] = {}
    for trial in everything:
        index = trial.user_attrs.get("index")
        if index is None:
            continue
        if index not in counting or counting[index].state == TrialState.FAIL:
            counting[index] = trial
    return dict(sorted(counting.items()))


def finished(trials: Mapping[int, FrozenTrial]) -> dict[int, FrozenTrial]:
    """Those that ended by themselves."""
    return {index: trial for index, trial in trials.items() if trial.state in _FINISHED}


def _sqlite_file(url: str) -> str | None:
    """The file of an SQLite database, "" if it has none; None of another one."""
    parts = sqlalchemy.make_url(url)
    return parts.database or "" if parts.get_backend_name() == "sqlite" else None


def _open(plan: Plan) -> tuple[Any, optuna.Study]:
    error: Exception | None = None
    # Tables are made at first; of several workers that start at once, all but one fail in that.
    for _ in range(3):
        try:
            file = _sqlite_file(plan.storage)
            if file in ("", ":memory:"):
                raise ValueError("workers share no memory; name a file, as in sqlite:///FILE")
            with _no_warnings():
                storage = optuna.storages.RDBStorage(
                    plan.storage,
                    # In seconds, until a write gives up waiting for another's.
                    engine_kwargs={"connect_args": {"timeout": 60}} if file else None,
                    heartbeat_interval=_GRACE // 3,
                    grace_period=_GRACE,
                )
            study = optuna.create_study(
                study_name=plan.name,
                storage=storage,
                direction="maximize",
                load_if_exists=True,
                pruner=optuna.pruners.MedianPruner() if plan.prune else optuna.pruners.NopPruner(),
            )
        except Exception as raised:  # SQLAlchemy and each database's driver raise any kind
            error = raised
            time.sleep(0.5)
        else:
            return storage, study
    assert error is not None
    raise _unusable(plan, error) from error


@contextmanager
def _no_warnings() -> Iterator[None]:
    """Optuna's: that this and that may change some day, and that heartbeats are for its own loop.

    `alive` sends them here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _unusable(plan: Plan, error: Exception) -> SweepError:
    # Of a database without its driver, Optuna does not say which; SQLAlchemy's own errors end with
    # advice on further lines.
    error = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return SweepError(f"cannot use the storage {_without_password(plan.storage)}: {reason}")


def _without_password(url: str) -> str:
    try:
        return sqlalchemy.make_url(url).render_as_string(hide_password=True)
    except sqlalchemy.exc.ArgumentError:
        return url


def _suggest(trial: optuna.Trial, key: str, values: optuna.distributions.BaseDistribution) -> None:
    if isinstance(values, optuna.distributions.CategoricalDistribution):
        trial.suggest_categorical(key, values.choices)
    elif isinstance(values, optuna.distributions.IntDistribution):
        trial.suggest_int(key, values.low, values.high, log=values.log)
    elif isinstance(values, optuna.distributions.FloatDistribution):
        trial.suggest_float(key, values.low, values.high, log=values.log)


def _this_process() -> list[Any]:
    return [socket.gethostname(), os.getpid()]


def _is_dead(trial: FrozenTrial) -> bool:
    """Whether the worker is known to be dead: one on this machine, or that never said who it is."""
    worker = trial.user_attrs.get("worker")
    if worker is None:
        started = trial.datetime_start or datetime.now()
        return (datetime.now() - started).total_seconds() > _CLAIMING
    host, pid = worker
    if host != socket.gethostname():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
