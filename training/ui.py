"""The `ui` command: MLflow's server over the checkout's store, on loopback; of a team's server, the links."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from training import shelf, store, view
from training.console import say, warn
from training.errors import TrackingError


def serve(port: int) -> int:
    """Runs MLflow's server on loopback over the store until it is stopped; prints the links when it is ready.

    Raises:
        TrackingError: no port is free, or the server does not start.
    """
    with store.connected() as client:
        experiment = view.experiment(client)
    shelf.settle()
    if store.uri().startswith("http"):
        say("MLFLOW_TRACKING_URI is set, so there is nothing to start")
        _say_links(store.masked(store.uri()).replace("***@", "").rstrip("/"), experiment)
        return 0
    free = next((p for p in range(port, port + 20) if _is_free(p)), None)
    if free is None:
        raise TrackingError(f"ports {port} to {port + 19} are all taken; name another with --port.")
    if free != port:
        warn(f"port {port} is taken; using {free}.")
    command = [
        sys.executable, "-m", "mlflow", "server", "--artifacts-destination", str(store.STORE / "artifacts"),
        "--host", "127.0.0.1", "--port", str(free), "--workers", "1",
    ]  # fmt: skip
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    backend = {"MLFLOW_BACKEND_STORE_URI": store.uri()}  # not in the command, which everybody on the machine can read
    say("starting MLflow (10 to 20 seconds) …")
    store.STORE.mkdir(exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever stops this stops the server as well
    with (store.STORE / "server.log").open("w", encoding="utf-8") as log_file:
        server = subprocess.Popen(command, env={**os.environ, **quiet, **backend}, stdout=log_file, stderr=log_file)
        try:
            _until_healthy(server, free)
            _say_links(f"http://127.0.0.1:{free}", experiment)
            say("in a browser that is new to MLflow, choose Model training and close the assistant: it remembers both")
            say("stop with Ctrl-C")
            return server.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            server.terminate()
            server.wait(timeout=20)


def _say_links(server: str, experiment: str) -> None:
    say(f"runs, the best first: {view.link(server, experiment, view.RUNS)}")
    say(f"seeds and trials, folded: {view.link(server, experiment, view.NESTED)}")
    say(f"registered models: {server}/#/models?workflowType=machine_learning")


def _until_healthy(server: subprocess.Popen[bytes], port: int) -> None:
    for _ in range(240):
        if server.poll() is not None:
            tail = (store.STORE / "server.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
            raise TrackingError("the MLflow server stopped: " + store.masked_text(" ".join(tail)))
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1),
        ):
            return
        time.sleep(0.5)
    raise TrackingError(f"the MLflow server was not ready after two minutes; see {store.STORE / 'server.log'}.")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
