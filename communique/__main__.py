"""The `communique` command."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from communique import __version__
from communique.errors import CommuniqueError, InputError

if TYPE_CHECKING:
    from communique.classifier import Classifier, Statement


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status: 0, or 2 after an error that was explained."""
    parsed = _parser().parse_args(arguments)
    try:
        return int(parsed.run(parsed))
    except CommuniqueError as error:
        sys.stderr.write(f"communique: {error}\n")
        return 2
    except BrokenPipeError:  # `communique read … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="communique",
        description="Tells what each sentence of a text does: proposes, sets a condition, rejects, reacts, or none.",
    )
    parser.add_argument("--version", action="version", version=f"communique {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    read = commands.add_parser("read", help="read documents sentence by sentence")
    read.add_argument("files", nargs="*", metavar="FILE", help="plain text or Markdown; '-' or none: standard input")
    read.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    read.set_defaults(run=_read)

    classify = commands.add_parser("classify", help="classify a text given on the command line, as one statement")
    classify.add_argument("text", nargs="+", help="the statement")
    classify.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    classify.set_defaults(run=_classify)

    info = commands.add_parser("info", help="what model this is, and where it comes from")
    info.set_defaults(run=_info)

    verify = commands.add_parser("verify", help="check a bundle's hashes and re-run its golden texts")
    verify.set_defaults(run=_verify)

    for command in (read, classify, info, verify):
        command.add_argument("--model", metavar="FOLDER", help="a bundle to use instead of the installed model")
    return parser


def _read(parsed: argparse.Namespace) -> int:
    from communique.classifier import load
    from communique.render import json_lines

    documents = [(name, _text_of(name)) for name in parsed.files or ["-"]]
    classifier = load(parsed.model)
    several = len(documents) > 1
    for name, document in documents:
        statements = classifier.read(document)
        if parsed.json:
            sys.stdout.write(json_lines(statements, name if several else None))
        else:
            heading = f"== {name}\n" if several else ""
            sys.stdout.write(heading + _shown(statements, classifier))
    return 0


def _classify(parsed: argparse.Namespace) -> int:
    from communique.classifier import load
    from communique.render import json_lines

    classifier = load(parsed.model)
    statement = classifier(" ".join(parsed.text))
    if parsed.json:
        sys.stdout.write(json_lines([statement]))
    else:
        for label, probability in statement.probabilities.items():
            mark = "*" if label in statement.intents else " "
            sys.stdout.write(f"{mark} {label:<12} {probability:.3f}\n")
    return 0


def _info(parsed: argparse.Namespace) -> int:
    from communique.classifier import load

    manifest = load(parsed.model).manifest
    lines = [
        f"communique {__version__}, model {manifest.name} {manifest.version} (bundle format {manifest.format})",
        f"labels      {', '.join(manifest.labels)} ({manifest.task})",
        f"thresholds  {', '.join(f'{value:.2f}' for value in manifest.thresholds)}",
        f"precision   {manifest.precision}",
        *(f"{title:<12}" + ", ".join(f"{key} {value}" for key, value in facts.items())
          for title, facts in (("corpus", manifest.corpus), ("run", manifest.run), ("encoder", manifest.encoder),
                               ("int8", manifest.quantisation)) if facts),
        *(f"{name:<28}{value:.4f}" for name, value in sorted(manifest.figures.items())),
    ]  # fmt: skip
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _verify(parsed: argparse.Namespace) -> int:
    from communique.golden import check

    path = Path(parsed.model) if parsed.model else Path(__file__).parent / "model"
    report = check(path)
    sys.stdout.write(f"{path}: {report}\n")
    return 0


def _text_of(name: str) -> str:
    try:
        raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{name}: no such file.") from None
    except IsADirectoryError:
        raise InputError(f"{name}: is a folder; name the files in it, e.g. {name.rstrip('/')}/*.md.") from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror}).") from None
    where = "standard input" if name == "-" else name
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}). Convert it, e.g. "
            "iconv -f WINDOWS-1252 -t UTF-8."
        ) from None
    if not text.strip():
        raise InputError(f"{where}: is empty; expected a text to read.")
    return text


def _shown(statements: list[Statement], classifier: Classifier) -> str:
    from communique.render import table

    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((100, 24)).columns
    return table(statements, classifier.classes_, width=width, colour=colour)


if __name__ == "__main__":
    sys.exit(main())
