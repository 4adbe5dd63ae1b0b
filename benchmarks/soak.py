"""A server under sustained load on loopback: every answer checked, memory watched; exits 1 on anything wrong.

    python benchmarks/soak.py service [--bundle bundles/model] [--minutes 10] [--clients 8] [--precision fp32]
    python benchmarks/soak.py pyfunc  [--bundle bundles/model] [--minutes 3]

service is examples/service.py; pyfunc is `mlflow models serve`, in the precision that the bundle recommends. Each
client keeps one connection and asks again as soon as it has its answer: 1 to 8 texts of the corpus' test split; of the
service, every tenth time a document. An answer is wrong where a probability is not the classifier's own for the text
alone; the largest difference is printed.
Memory is the server's with its children, resident; in the second half of the time it must not rise by more than 5%.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEXTS = ROOT / "datasets" / "statements" / "test.jsonl"
MOVE = 1e-3
GROWTH = 1.05


class Load:
    """Clients that ask one server, and what came of it since the last look."""

    def __init__(self, target: str, port: int, bundle: Path, precision: str | None) -> None:
        import communique

        self.target, self.port = target, port
        self.ours = communique.load(bundle, threads=1, precision=precision)
        self.precision = precision or self.ours.manifest.precision
        self.moved = 0.0
        self.texts = [json.loads(line)["text"] for line in TEXTS.read_text(encoding="utf-8").splitlines()][:400]
        self.expected = [one.probabilities for text in self.texts for one in [self.ours(text)]]
        self.document = "\n\n".join(self.texts[:12])
        self.sentences = len(self.ours.read(self.document))
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.times: list[float] = []
        self.errors: Counter[str] = Counter()

    def client(self, number: int) -> None:
        """Asks until told to stop."""
        chance = random.Random(number)
        connection = self._connection()
        for turn in itertools.count(1):
            if self.stop.is_set():
                break
            began = time.perf_counter()
            try:
                problem = self._document(connection) if self._reads(turn) else self._some(connection, chance)
            except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
                connection.close()
                connection = self._connection()
            with self.lock:
                self.times.append(time.perf_counter() - began)
                self.errors.update([problem] if problem else [])
        connection.close()

    def taken(self) -> list[float]:
        """Seconds of each request since the last call, sorted."""
        with self.lock:
            times, self.times = sorted(self.times), []
        return times

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def _reads(self, turn: int) -> bool:
        return self.target == "service" and turn % 10 == 0

    def _some(self, connection: http.client.HTTPConnection, chance: random.Random) -> str | None:
        places = [chance.randrange(len(self.texts)) for _ in range(chance.randint(1, 8))]
        texts = [self.texts[place] for place in places]
        path, key, wanted = {
            "service": ("/classify", "texts", "statements"),
            "pyfunc": ("/invocations", "inputs", "predictions"),
        }[self.target]
        answers = _asked(connection, path, {key: texts})[wanted]
        if len(answers) != len(texts):
            return f"{len(texts)} texts got {len(answers)} answers"
        for place, answer in zip(places, answers, strict=True):
            for label, value in self.expected[place].items():
                move = abs(answer["probabilities"][label] - value)
                if not move <= MOVE:
                    return f"wrong answer: {label} off by more than {MOVE}"
                self.moved = max(self.moved, move)
        return None

    def _document(self, connection: http.client.HTTPConnection) -> str | None:
        found = _asked(connection, "/read", {"document": self.document})["statements"]
        whole = all(0 <= one["start"] < one["end"] <= len(self.document) for one in found)
        return None if len(found) == self.sentences and whole else "a document was read otherwise than alone"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=("service", "pyfunc"))
    parser.add_argument("--bundle", type=Path, default=Path("bundles/model"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--precision", choices=("fp32", "int8"), default="fp32", help="of the service")
    asked = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="communique-soak-") as scratch:
        port = _free_port()
        precision = asked.precision if asked.target == "service" else None
        load = Load(asked.target, port, asked.bundle, precision)
        log = Path(scratch) / "log"
        with log.open("w") as stream:
            server = subprocess.Popen(
                _command(asked.target, asked.bundle, precision, port, Path(scratch)), stdout=stream, stderr=stream,
                start_new_session=True, cwd=scratch, env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        try:
            _until_ready(server, port, log)
            print(f"{asked.target}, {load.precision}, {asked.clients} clients, {asked.minutes:g} minutes")
            failed = _soak(load, server.pid, asked.minutes, asked.clients)
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)
        if "Traceback" in log.read_text(errors="replace"):
            failed = True
            print("the server's log holds a traceback:\n" + log.read_text(errors="replace")[-2000:])
    print("FAILED" if failed else "passed")
    return int(failed)


def _soak(load: Load, server: int, minutes: float, clients: int) -> bool:
    """Prints a line a minute; whether anything was wrong."""
    threads = [threading.Thread(target=load.client, args=(number,), daemon=True) for number in range(clients)]
    for thread in threads:
        thread.start()
    began, held, everything = time.monotonic(), [], []
    print(f"{'minute':>6}{'requests':>10}{'a second':>10}{'errors':>8}{'p50 ms':>8}{'p99 ms':>8}{'MiB':>8}")
    at = 0.0
    while at < minutes:
        step = min(1.0, minutes - at)
        at += step
        time.sleep(max(began + at * 60 - time.monotonic(), 0))
        times = load.taken()
        everything += times
        held.append(_memory(server))
        _row(f"{at:g}", times, step * 60, load.errors.total(), held[-1])
    load.stop.set()
    for thread in threads:
        thread.join(90)
    _row("all", sorted([*everything, *load.taken()]), minutes * 60, load.errors.total(), held[-1])
    for problem, count in load.errors.most_common(10):
        print(f"{count} times: {problem}")
    print(f"largest distance of a probability from the classifier's own: {load.moved:.6f}")
    middle = (len(held) + 1) // 2
    before, after = max(held[:middle]), max(held[middle:], default=0)
    grown = after > before * GROWTH
    if grown:
        print(f"memory rose from {before:.0f} to {after:.0f} MiB in the second half")
    stuck = any(thread.is_alive() for thread in threads)
    if stuck:
        print("a client waited for its last answer for more than 90 seconds")
    return bool(load.errors) or grown or stuck or not everything


def _row(minute: str, times: list[float], seconds: float, errors: int, memory: float) -> None:
    p50, p99 = (1000 * times[int(share * (len(times) - 1))] if times else float("nan") for share in (0.5, 0.99))
    print(
        f"{minute:>6}{len(times):>10}{len(times) / seconds:>10.1f}{errors:>8}{p50:>8.1f}{p99:>8.1f}{memory:>8.0f}",
        flush=True,
    )


def _command(target: str, bundle: Path, precision: str | None, port: int, scratch: Path) -> list[str]:
    if precision:
        place = ["--bundle", str(bundle.resolve()), "--precision", precision, "--port", str(port)]
        return [sys.executable, str(ROOT / "examples" / "service.py"), *place]
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    from communique import bundle as bundles
    from training import registry

    model = registry.save(bundle, bundles.verify(bundle), scratch)
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls `python`
    return [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "--env-manager", "local",
        "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
    ]  # fmt: skip


def _asked(connection: http.client.HTTPConnection, path: str, body: dict[str, Any]) -> dict[str, Any]:
    connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content = answer.read()
    if answer.status != 200:
        raise ValueError(f"status {answer.status}: {content[:200]!r}")
    return dict(json.loads(content))


def _until_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        if server.poll() is not None:
            sys.exit("the server stopped:\n" + log.read_text(errors="replace")[-2000:])
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    sys.exit("the server was not ready after two minutes")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _memory(group: int) -> float:
    """MiB resident of every process in the server's group (Linux)."""
    pages = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            rest = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(rest[2]) == group:
                pages += int((folder / "statm").read_text().split()[1])
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    sys.exit(main())
