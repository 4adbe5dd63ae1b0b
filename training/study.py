"""An Optuna study in its database: made, gone on with, or refused when it is of another sweep.

Nothing here knows what a trial does; `training.sweep` does.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from training import search
from training.errors import SweepError
from training.search import SweepConfig

HEARTBEAT, GRACE = 30, 120  # seconds: a trial that was silent for so long died with its process
RETRIES = 1  # of such a trial: one that killed two processes may kill a third
COUNTED = (TrialState.COMPLETE, TrialState.PRUNED)
_INPUTS = "inputs"
_RACE = ("already exists", "UNIQUE constraint", "uplicate")  # of two processes that make the same tables at once


class Sampler(BaseSampler):
    """Multivariate TPE (Bergstra et al. 2011; Falkner et al. 2018), drawing for each trial from a seed of its own.

    The seed is made of the sweep's and the trial's number. Seeded once, a sampler would propose again, after a
    resumption and in every further process, what it proposed at the start.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._tpe = TPESampler(multivariate=True, seed=seed)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The keys drawn together; Optuna asks for them first in every trial, so here the trial's seed is set."""
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        self._tpe = TPESampler(multivariate=True, seed=seed)
        return self._tpe.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As TPE."""
        return self._tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """As TPE."""
        return self._tpe.sample_independent(study, trial, param_name, param_distribution)


@contextlib.contextmanager
def opened(
    settings: SweepConfig, folder: Path, inputs: Mapping[str, str], first: Mapping[str, Any] | None
) -> Iterator[Study]:
    """The sweep's study, and its database closed at the end.

    Args:
        settings: the sweep.
        folder: holds the database where the settings name none.
        inputs: name -> digest of all that makes two sweeps' figures comparable.
        first: what the first trial of a new study takes; None to draw it like every other.

    Raises:
        SweepError: the database cannot be reached, here or later on, or holds another sweep of this name.
    """
    url = settings.storage or _beside(folder)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it reports each trial, and failed ones with a traceback
    storage = None
    try:
        storage = _storage(url)
        study = optuna.create_study(
            storage=storage, study_name=settings.name, direction="maximize", load_if_exists=True,
            sampler=Sampler(settings.seed), pruner=_pruner(settings),
        )  # fmt: skip
        _claim(study, inputs, first, search.masked(url))
        yield study
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _unreachable(error, url) from None
    finally:
        if storage is not None:
            storage.remove_session()
            storage.engine.dispose()


def counted(study: Study) -> list[FrozenTrial]:
    """The trials that finished or were pruned."""
    return study.get_trials(deepcopy=False, states=COUNTED)


def ranked(study: Study) -> list[FrozenTrial]:
    """The trials that finished, the best first; of equal ones the earlier."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(finished, key=lambda trial: (-(trial.value or 0.0), trial.number))


def _beside(folder: Path) -> str:
    return URL.create("sqlite", database=str((folder / "study.sqlite").resolve())).render_as_string()


def _storage(url: str, attempts: int = 5) -> RDBStorage:
    # A second process waits while another writes; sqlite's own five seconds are few on a network disk.
    engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {}
    try:
        with warnings.catch_warnings():
            # Experimental by name, but since 2.9 the way to learn of a process that was killed.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                url, engine_kwargs=engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=RETRIES),
            )  # fmt: skip
    except DBAPIError as error:
        if attempts == 1 or not any(words in str(error) for words in _RACE):
            raise
    except (ImportError, RuntimeError) as error:  # a driver that is not installed; tables of another Optuna
        raise _unreachable(error, url) from None
    time.sleep(0.3)
    return _storage(url, attempts - 1)


def _unreachable(error: Exception, url: str) -> SweepError:
    reason = search.masked_text(str(error).strip().partition("\n")[0][:300].rstrip("."), url)
    return SweepError(
        f"{search.masked(url)}: {reason}. Trials that finished are kept there; once it can be used, the same command "
        "goes on."
    )


def _pruner(settings: SweepConfig) -> optuna.pruners.BasePruner:
    if settings.pruning is None:
        return optuna.pruners.NopPruner()
    return optuna.pruners.MedianPruner(
        n_startup_trials=settings.pruning.startup_trials, n_warmup_steps=settings.pruning.warmup_epochs + 1
    )


def _claim(study: Study, inputs: Mapping[str, str], first: Mapping[str, Any] | None, where: str) -> None:
    """Writes what a new study is of; refuses one that is of something else."""
    # in this order: another process that starts now writes the inputs first and adds a trial then
    is_new = not study.get_trials(deepcopy=False)
    known = study.user_attrs.get(_INPUTS)
    if known is None and is_new:
        study.set_user_attr(_INPUTS, dict(inputs))
        if first is not None:
            study.enqueue_trial(dict(first), skip_if_exists=True)
    elif known != inputs:
        other = [name for name in inputs if not isinstance(known, dict) or known.get(name) != inputs[name]]
        raise SweepError(
            f"{where}: the study {study.study_name} there was made with another {' and '.join(other)}, and its figures "
            "cannot be compared with new ones. Give this sweep another name, or bring back what it was made with."
        )
