"""Several processes, on one machine or more, that fit one model: `torchrun … -m training train …`.

The first process does all that a single one does. Where it comes to a fit it calls the others, who read the same
corpus, take their part of every batch, and otherwise wait: they print, write and track nothing. Hugging Face
Accelerate connects them, over NCCL on GPUs and Gloo on processors.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from training.errors import RunError

PATIENCE = timedelta(days=1)  # the others wait while the first evaluates; when it fails, torchrun ends them

Value = TypeVar("Value")


def count() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def number() -> int:
    """This process' place among them; the first is 0."""
    return int(os.environ.get("RANK", "0"))


def accelerator() -> Any:
    """A new `Accelerator`, on this process' GPU or processor; the first one connects to the other processes."""
    from accelerate import Accelerator, InitProcessGroupKwargs
    from accelerate.utils import is_cuda_available

    return Accelerator(
        cpu=not is_cuda_available(),
        mixed_precision="no",  # the fit casts by itself
        kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)],
    )


def agreed(find: Callable[[], Value]) -> Value:
    """What `find` gives in the first process, in all of them."""
    if count() == 1:
        return find()
    from accelerate.utils import broadcast_object_list

    accelerator()
    value: Value = broadcast_object_list([find() if number() == 0 else None])[0]
    return value


def part(places: Sequence[int]) -> tuple[list[int], float]:
    """This process' texts of a batch, and the weight that makes the processes' mean loss that of the whole batch.

    Every process has to have a text: where there are too few, some take one with weight 0.
    """
    mine = list(places[number() :: count()])
    return mine or list(places[:1]), len(mine) * count() / len(places)


@contextlib.contextmanager
def leading() -> Iterator[None]:
    """For the first process: lets the others go after the block, in which it may `call` them.

    Where the block fails they are not told: torchrun ends them.

    Raises:
        RunError: another process is lost.
    """
    with _explained():
        yield
        if count() > 1:
            call(None)
            accelerator().end_training()


def call(job: object) -> None:
    """Gives the others a job; None lets them go."""
    if count() > 1:
        agreed(lambda: job)


def follow(work: Callable[[Any], object]) -> None:
    """For the others: does the first one's jobs, silently, until it lets them go.

    Raises:
        RunError: another process is lost.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one saves, then torchrun ends all
    with _explained():
        while (job := agreed(lambda: None)) is not None:
            with (
                Path(os.devnull).open("w") as nowhere,
                contextlib.redirect_stdout(nowhere),
                contextlib.redirect_stderr(nowhere),
            ):
                work(job)
        accelerator().end_training()


def leave(status: int) -> NoReturn:
    """Ends this process; one of several at once, for as Python shuts down a thread of Gloo's now and then aborts it."""
    if count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


@contextlib.contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if count() == 1 or not any(backend in str(error).lower() for backend in ("gloo", "nccl")):
            raise
        raise RunError(
            f"process {number()} of {count()} lost the others ({str(error).splitlines()[0][:200]}); the first one's "
            "last checkpoint is kept, and the same command goes on from there."
        ) from None
