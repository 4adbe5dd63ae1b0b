"""What a training that was cut short goes on from, and the lock that keeps two out of one folder.

A checkpoint is a folder RUN/checkpoint/NUMBER with `state.safetensors`, `state.json` and the SHA256SUMS of the two.
It is written under another name, flushed to the disk and renamed, so that whatever stops the training leaves the last
one whole; the newest two are kept, and one that is damaged gives way to the one before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from training.console import warn
from training.errors import RunError
from training.files import REFUSED, sha256

EVERY = 60.0  # seconds of training that a kill may cost
SHARE = 0.05  # of the time, at most, goes into saving: large models are saved less often
KEPT = 2
_TENSORS, _STATE, _SUMS = "state.safetensors", "state.json", "SHA256SUMS"
_PARTIAL = ".partial"

Arrays = Mapping[str, npt.NDArray[Any]]


class Checkpoints:
    """The checkpoints of one training, and when the next is due.

    Args:
        folder: where they lie; None keeps none.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._began = time.perf_counter()
        self._before = 0.0
        self._next = self._began + EVERY
        self._stop = False

    @property
    def seconds(self) -> float:
        """How long the training has taken, with what was kept of earlier attempts."""
        return self._before + time.perf_counter() - self._began

    def latest(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]] | None:
        """The newest whole checkpoint as it was saved, or None; damaged ones are removed, with a warning each."""
        for place in reversed(self._places()):
            try:
                tensors, state = _read(place)
            except (OSError, ValueError, SafetensorError) as error:
                warn(f"{place}: the checkpoint is damaged ({error}) and is removed; the one before it is taken.")
                shutil.rmtree(place)
                continue
            self._before, self._began = state.pop("seconds"), time.perf_counter()
            return tensors, state
        return None

    def due(self) -> bool:
        """Whether to save between two updates: Ctrl-C was pressed, or the last checkpoint is old."""
        return self._folder is not None and (self._stop or time.perf_counter() >= self._next)

    def save(self, tensors: Arrays, state: Mapping[str, Any]) -> None:
        """Writes a checkpoint and removes all but the newest two; does nothing where none are kept.

        Raises:
            OSError, SafetensorError: it cannot be written; those there stay as they are.
            KeyboardInterrupt: Ctrl-C was pressed while `listening`.
        """
        if self._folder is None:
            return
        start = time.perf_counter()
        self._folder.mkdir(exist_ok=True)
        partial = self._folder / _PARTIAL
        shutil.rmtree(partial, ignore_errors=True)
        places = self._places()
        try:
            _write(partial, tensors, {**state, "seconds": self.seconds})
            partial.rename(self._folder / f"{int(places[-1].name) + 1 if places else 1:06}")
        except (OSError, SafetensorError):
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _flush(self._folder)
        for old in self._places()[:-KEPT]:
            shutil.rmtree(old)
        end = time.perf_counter()
        self._next = end + max(EVERY, (end - start) / SHARE)
        self._heed()

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Makes Ctrl-C wait for the next `save`; a second one stops at once, as ever.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed after the last `save`.
        """
        before = signal.getsignal(signal.SIGINT)
        if self._folder is None or before is not signal.default_int_handler:  # a job in the background ignores it
            yield
            return

        def stop(*_: object) -> None:
            self._stop = True
            signal.signal(signal.SIGINT, before)
            warn("stopping after this update; Ctrl-C again to stop at once.")

        signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
        self._heed()

    def clear(self) -> None:
        """Removes them all: the training is done."""
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _heed(self) -> None:
        if self._stop:
            self._stop = False
            raise KeyboardInterrupt

    def _places(self) -> list[Path]:
        if self._folder is None or not self._folder.is_dir():
            return []
        return sorted(place for place in self._folder.iterdir() if place.name.isdigit())


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Holds FOLDER.lock, beside the run's folder, which may be moved or cleared meanwhile; a killed holder frees it.

    Raises:
        RunError: another training holds it.
    """
    path = _lock(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(stream.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):  # held, or just removed by one that held it
            ours = False
        if not ours:
            stream.seek(0)
            raise RunError(
                f"{folder}: another training is at work there (process {stream.read().strip() or 'unknown'}); "
                "wait for it, stop it, or name another --output."
            )
        stream.truncate(0)
        stream.write(f"{os.getpid()}\n")
        stream.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def at_work(folder: Path) -> bool:
    """Whether a training holds the folder."""
    try:
        with _lock(folder).open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock
        return False
    return False


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Says in one message what a disk that is full, read-only or another's means for what is made in `folder`.

    Raises:
        RunError: in place of the system's error.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error.errno if isinstance(error, OSError) else _number(error)
        if number not in REFUSED:
            raise
        raise RunError(
            f"{folder}: cannot be written: {os.strerror(number)}. What was saved before is kept; make room or lift the "
            "restriction, and the same command goes on from there (or name another --output)."
        ) from None


def _lock(folder: Path) -> Path:
    place = folder.resolve()
    return place.with_name(f"{place.name}.lock")


def _number(error: SafetensorError) -> int | None:
    """The system's error number, which safetensors gives in words only."""
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def _write(folder: Path, tensors: Arrays, state: Mapping[str, Any]) -> None:
    folder.mkdir()
    save_file({name: np.asarray(value, order="C") for name, value in tensors.items()}, folder / _TENSORS)
    (folder / _STATE).write_text(json.dumps(state), encoding="utf-8")
    sums = "".join(f"{sha256(folder / name)}  {name}\n" for name in (_TENSORS, _STATE))
    (folder / _SUMS).write_text(sums, encoding="utf-8")
    for file in (*folder.iterdir(), folder):
        _flush(file)


def _read(folder: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    stored = (folder / _SUMS).read_text(encoding="utf-8")
    for name in (_TENSORS, _STATE):
        if f"{sha256(folder / name)}  {name}\n" not in stored:
            raise ValueError(f"{name}: its SHA-256 is not the one in {_SUMS}")
    return dict(load_file(folder / _TENSORS)), json.loads((folder / _STATE).read_text(encoding="utf-8"))


def _flush(path: Path) -> None:
    """Forces a file, or a folder's names, onto the disk."""
    place = os.open(path, os.O_RDONLY)
    try:
        os.fsync(place)
    finally:
        os.close(place)
