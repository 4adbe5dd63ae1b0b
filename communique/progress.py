"""A progress bar on standard error, for people who wait."""

from __future__ import annotations

import sys
import time

PATIENCE = 2.0  # seconds before anything is shown
PAUSE = 0.1  # seconds between two drawings
WIDTH = 24


class Progress:
    """Counts work done and draws it once it takes longer than `PATIENCE`; silent where nobody looks on.

    Args:
        title: what is going on, e.g. "reading".
        total: all the work there is, in `unit`.
        unit: what is counted, e.g. "characters".
    """

    def __init__(self, title: str, total: int, unit: str) -> None:
        self._title, self._total, self._unit = title, max(total, 1), unit
        self._done = 0
        self._began = self._drawn = time.monotonic()
        self._visible = False

    def advance(self, amount: int) -> None:
        """Counts `amount` more as done."""
        self._done += amount
        now = time.monotonic()
        elapsed = now - self._began
        if elapsed < PATIENCE or now - self._drawn < PAUSE or not sys.stderr.isatty():
            return
        self._drawn, self._visible = now, True
        share = min(self._done / self._total, 1)
        bar = "█" * round(share * WIDTH) + "░" * (WIDTH - round(share * WIDTH))
        rate = self._done / elapsed
        left = max(self._total - self._done, 0) / max(rate, 1e-9)
        sys.stderr.write(f"\r{self._title} {bar} {share:4.0%}  {rate:,.0f} {self._unit}/s  {left:.0f} s left\033[K")
        sys.stderr.flush()

    def clear(self) -> None:
        """Takes the bar away, so that something else can be written."""
        if self._visible:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()
            self._visible = False
