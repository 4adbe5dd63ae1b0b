"""What the commands tell the person in front of them."""

from __future__ import annotations

import sys


def say(text: str = "") -> None:
    """Prints a line of result to standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    """Prints a warning to standard error, at once."""
    sys.stderr.write(f"warning: {text}\n")
    sys.stderr.flush()
