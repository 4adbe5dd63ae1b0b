"""Where MLflow keeps the runs, the checkout's own store or the one `MLFLOW_TRACKING_URI` names, and its client."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Lock, Thread
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from communique.errors import CommuniqueError
from training import run
from training.console import say
from training.errors import TrackingError

STORE = run.ROOT / ".mlflow"
_T = TypeVar("_T")
_TURN = Lock()


def uri() -> str:
    """`MLFLOW_TRACKING_URI` where it is set, else the checkout's own store."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{STORE / 'mlflow.db'}"


def client() -> Any:
    """MLflow's client of the store; its database is made where there is none."""
    # No call leaves the machine, and a dead server fails in seconds, not minutes.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("PGCONNECT_TIMEOUT", "15")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # it would print a password that the address holds
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", str(sys.stderr.isatty()).lower())
    if uri().startswith("sqlite:///"):
        database = Path(uri().removeprefix("sqlite:///"))
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            say("creating MLflow's database (about 12 seconds, once) …")
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow", "urllib3"):  # what goes wrong is said once, by whoever asked
        logging.getLogger(name).setLevel(logging.ERROR)
    if not uri().startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 3  # ten take two minutes
    return MlflowClient(tracking_uri=uri())


def within(seconds: float, work: Callable[[], _T]) -> _T:
    """The result of `work`; what takes longer is left behind in its thread, and later work waits until it is done.

    Raises:
        TrackingError: it went wrong, or there was no answer in time.
    """
    future: Future[_T] = Future()

    def answer() -> None:
        with _TURN:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)

    Thread(target=answer, name="tracker", daemon=True).start()
    try:
        return future.result(seconds)
    except CommuniqueError:
        raise
    except Exception as error:
        words = short(error) if future.done() else f"no answer within {seconds:.0f} seconds"
        future.cancel()
        raise TrackingError(f"{masked(uri())}: {words}.") from None


@contextlib.contextmanager
def connected() -> Iterator[Any]:
    """MLflow's client; what goes wrong in the block is a TrackingError."""
    try:
        yield client()
    except CommuniqueError:
        raise
    except Exception as error:
        raise TrackingError(f"{masked(uri())}: {short(error)}") from None


def masked(address: str) -> str:
    """The address without user and password, and without options, which may hold another."""
    parts = urlsplit(address)
    if "@" not in parts.netloc and not parts.query:
        return address
    user = "***@" if "@" in parts.netloc else ""
    return urlunsplit(parts._replace(netloc=user + parts.netloc.rpartition("@")[2], query=""))


def masked_text(text: str) -> str:
    """The text with user and passwords of the tracking URI taken out, as they stand there and decoded."""
    parts = urlsplit(uri())
    who, at, _ = parts.netloc.rpartition("@")
    if parts.password:
        text = text.replace(who + at, "***@")
    for secret in filter(None, [parts.password, *(value for _, value in parse_qsl(parts.query))]):
        for form in (secret, quote(secret, safe=""), unquote(secret)):
            text = text.replace(form, "***")
    return text


def short(error: Exception) -> str:
    """The first line of an error, without a password."""
    return masked_text(str(error).strip().partition("\n")[0] or type(error).__name__)[:300]


def disk_use() -> str:
    """How much the local store holds, for people."""
    size = sum(file.stat().st_size for file in STORE.rglob("*") if file.is_file()) if STORE.exists() else 0
    return f"{STORE}: {size / 2**20:.0f} MiB of {shutil.disk_usage(run.ROOT).free / 2**30:.0f} GiB free"
