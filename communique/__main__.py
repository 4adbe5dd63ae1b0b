"""The `communique` command."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from communique import __version__
from communique.errors import CommuniqueError, InputError

if TYPE_CHECKING:
    from communique.classifier import Classifier
    from communique.documents import Document

STANDARD_OUTPUT = "-"
OUTPUTS = {"html": (".html", ".htm"), "json": (".json", ".jsonl"), "csv": (".csv",)}  # of `read`, by their endings


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

    read = commands.add_parser(
        "read",
        help="read documents sentence by sentence",
        description="Reads documents sentence by sentence: a table, or HTML, CSV and JSON lines, several at once.",
    )
    read.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="plain text, Markdown or HTML, a folder of texts, or a pattern; '-' or none: standard input",
    )
    read.add_argument("--html", metavar="OUT", help="a page to open in a browser or print; ends in .html")
    for form, what in (("json", "JSON lines"), ("csv", "CSV")):
        read.add_argument(
            f"--{form}",
            nargs="?",
            const=STANDARD_OUTPUT,
            metavar="OUT",
            help=f"{what} to standard output, or to OUT if that ends in {' or '.join(OUTPUTS[form])}",
        )
    read.add_argument("--no-explain", action="store_true", help="leave the words that decided out of the page: faster")
    read.set_defaults(run=_read)

    classify = commands.add_parser("classify", help="classify a text given on the command line, as one statement")
    classify.add_argument("text", nargs="+", help="the statement")
    classify.add_argument("--json", action="store_true", help="JSON lines instead of a table")
    classify.set_defaults(run=_classify)

    explain = commands.add_parser("explain", help="show which words of a statement carry its prediction")
    explain.add_argument("text", nargs="+", help="the statement")
    explain.add_argument("--json", action="store_true", help="JSON instead of marked text")
    explain.set_defaults(run=_explain)

    info = commands.add_parser("info", help="what model this is, and where it comes from")
    info.set_defaults(run=_info)

    verify = commands.add_parser("verify", help="check a bundle's hashes and re-run its golden texts")
    verify.set_defaults(run=_verify)

    for command in (read, classify, explain):
        command.add_argument(
            "--min-confidence",
            type=float,
            default=0.0,
            metavar="X",
            help="mark statements whose confidence is below X (0 to 1) as unsure",
        )
    for command in (read, classify, explain, info, verify):
        command.add_argument("--model", metavar="FOLDER", help="a bundle to use instead of the installed model")
    return parser


def _read(parsed: argparse.Namespace) -> int:
    from communique import documents
    from communique.classifier import load
    from communique.progress import Progress
    from communique.render import csv_header

    targets = _targets(parsed)
    names = parsed.files or [documents.STANDARD_INPUT]
    texts, problems = documents.gather(names)
    for problem in problems:
        sys.stderr.write(f"communique: {problem}\n")
    if not texts:
        return 2
    for target in targets.values():
        if target != STANDARD_OUTPUT and any(Path(target).resolve() == Path(name).resolve() for name, _ in texts):
            raise InputError(f"{target}: is one of the documents to read; name another file for the output.")
    classifier = load(parsed.model, min_confidence=parsed.min_confidence)
    several = len(names) > 1 or [name for name, _ in texts] != names
    progress = Progress("reading", sum(len(text) for _, text in texts), "characters")
    kept = []
    with ExitStack() as stack:
        streams = {form: stack.enter_context(_opened(target, form)) for form, target in targets.items()}
        if "csv" in streams:
            streams["csv"].write(csv_header(classifier.classes_))
        for name, text in texts:
            document = documents.read(classifier, name, text, progress.advance)
            if sys.stdout in streams.values() and sys.stdout.isatty():
                progress.clear()
            for form, stream in streams.items():
                if form == "html":
                    kept.append(document)
                else:
                    stream.write(_written(form, document, name if several else None, classifier))
        progress.clear()
        if "html" in streams:
            streams["html"].write(_page(kept, classifier, explain=not parsed.no_explain))
    for target in targets.values():
        if target != STANDARD_OUTPUT:
            sys.stderr.write(f"communique: wrote {target}\n")
    return 2 if problems else 0


def _written(form: str, document: Document, source: str | None, classifier: Classifier) -> str:
    from communique import render

    if form == "json":
        return render.json_lines(document.statements, source)
    if form == "csv":
        return render.csv_rows(document.statements, document.name)
    heading = f"== {source}\n" if source is not None else ""
    return heading + render.table(document.statements, classifier.classes_, width=_width(), colour=_colour())


def _page(read: list[Document], classifier: Classifier, *, explain: bool) -> str:
    from communique import documents, page
    from communique.progress import Progress

    if explain:
        progress = Progress("explaining", sum(len(document.statements) for document in read), "sentences")
        read = [documents.explained(classifier, document, progress.advance) for document in read]
        progress.clear()
    manifest = classifier.manifest
    return page.html(
        read,
        classifier.classes_,
        thresholds=classifier.thresholds.tolist() if manifest.task == "multi_label" else None,
        model=f"communique {__version__}, model {manifest.name} {manifest.version}",
    )


def _targets(parsed: argparse.Namespace) -> dict[str, str]:
    """Forms of output to the files that they go to, or to `STANDARD_OUTPUT`."""
    targets = {}
    for form, suffixes in OUTPUTS.items():
        target = getattr(parsed, form)
        if target is None:
            continue
        if target != STANDARD_OUTPUT and not target.lower().endswith(suffixes):
            if form == "html":
                raise InputError(f"--html writes a page; expected a name that ends in .html, found {target!r}.")
            parsed.files.insert(0, target)  # `read --json article.md`
            target = STANDARD_OUTPUT
        targets[form] = target
    if list(targets.values()).count(STANDARD_OUTPUT) > 1:
        raise InputError(f"{' and '.join(targets)} cannot share standard output; name a file, e.g. --csv out.csv.")
    return targets or {"table": STANDARD_OUTPUT}


def _opened(target: str, form: str) -> AbstractContextManager[TextIO]:
    if target == STANDARD_OUTPUT:
        return nullcontext(sys.stdout)
    try:
        # spreadsheets take a CSV file for UTF-8 only where it begins with a byte order mark
        return Path(target).open("w", encoding="utf-8-sig" if form == "csv" else "utf-8", newline="")
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}).") from None


def _classify(parsed: argparse.Namespace) -> int:
    from communique.classifier import load
    from communique.documents import decoded
    from communique.render import json_lines

    classifier = load(parsed.model, min_confidence=parsed.min_confidence)
    statement = classifier(decoded(" ".join(parsed.text)))
    if parsed.json:
        sys.stdout.write(json_lines([statement]))
    else:
        for label, probability in statement.probabilities.items():
            mark = "*" if label in statement.intents else " "
            sys.stdout.write(f"{mark} {label:<12} {probability:.3f}\n")
        sys.stdout.write(f"? unsure: confidence {statement.confidence:.3f}\n" if statement.unsure else "")
    return 0


def _explain(parsed: argparse.Namespace) -> int:
    from communique import render
    from communique.classifier import load
    from communique.documents import decoded

    classifier = load(parsed.model, min_confidence=parsed.min_confidence)
    explanation = classifier.explain(decoded(" ".join(parsed.text)))
    if parsed.json:
        sys.stdout.write(render.explanation_json(explanation))
    else:
        sys.stdout.write(render.explained(explanation, classifier.classes_, width=_width(), colour=_colour()))
    return 0


def _info(parsed: argparse.Namespace) -> int:
    from communique.classifier import load
    from communique.documents import printable

    manifest = load(parsed.model).manifest
    lines = [
        f"communique {__version__}, model {manifest.name} {manifest.version} (bundle format {manifest.format})",
        f"labels      {', '.join(manifest.labels)} ({manifest.task})",
        f"thresholds  {', '.join(f'{value:.2f}' for value in manifest.thresholds)}",
        f"precision   {manifest.precision}",
        *(f"{title:<12}" + ", ".join(f"{key} {_fact(value)}" for key, value in facts.items() if value is not None)
          for title, facts in (("corpus", manifest.corpus), ("run", manifest.run), ("encoder", manifest.encoder),
                               ("int8", manifest.quantisation)) if facts),
        *(f"{name:<28}{value:.4f}" for name, value in sorted(manifest.figures.items())),
    ]  # fmt: skip
    sys.stdout.write("".join(printable(" ".join(line.splitlines())) + "\n" for line in lines))
    return 0


def _fact(value: object) -> str:
    return ", ".join(f"{name} {one}" for name, one in value.items()) if isinstance(value, dict) else str(value)


def _verify(parsed: argparse.Namespace) -> int:
    from communique.golden import check

    path = Path(parsed.model) if parsed.model else Path(__file__).parent / "model"
    report = check(path)
    sys.stdout.write(f"{path}: {report}\n")
    return 0


def _width() -> int:
    return shutil.get_terminal_size((100, 24)).columns


def _colour() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


if __name__ == "__main__":
    sys.exit(main())
