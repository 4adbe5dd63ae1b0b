"""Names to documents: files, folders, patterns and standard input, read with progress."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from communique.errors import InputError
from communique.markup import is_html, text_of

if TYPE_CHECKING:
    from communique.classifier import Classifier, Statement
    from communique.explain import Word

SUFFIXES = (".markdown", ".md", ".text", ".txt")  # what counts as a text in a folder
PAGES = (".htm", ".html", ".xhtml")  # read where they are named; in a folder they may be what `read --html` wrote
STEP = 256  # sentences between two signs of progress
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Document:
    """A text that was read.

    Attributes:
        name: the file as it was named, or "-" for standard input.
        text: all of it; of an HTML page what stands outside its tags.
        statements: its sentences in order, with offsets into `text`.
        words: for explained statements, by their place in `statements`, their words with weights.
    """

    name: str
    text: str
    statements: Sequence[Statement]
    words: Mapping[int, tuple[Word, ...]] = field(default_factory=dict)


def gather(names: Sequence[str]) -> tuple[list[tuple[str, str]], list[InputError]]:
    """Names of files, folders or patterns to (name, text) pairs, and what could not be read.

    A folder stands for the files in it and below with one of `SUFFIXES`, hidden ones left out.
    """
    texts, problems = [], []
    for name in names:
        try:
            files = _files(name)
        except InputError as error:
            problems.append(error)
            continue
        for file in files:
            try:
                texts.append((shown(file), _text(file)))
            except InputError as error:
                problems.append(error)
    return texts, problems


def read(classifier: Classifier, name: str, text: str, advance: Callable[[int], None]) -> Document:
    """Reads a text sentence by sentence, telling `advance` how many characters are done."""
    from communique.reader import sentences

    spans, statements, done = sentences(text), [], 0
    while chunk := list(islice(spans, STEP)):
        found = classifier([text[start:end] for start, end in chunk])
        statements += [
            replace(statement, start=start, end=end) for statement, (start, end) in zip(found, chunk, strict=True)
        ]
        advance(chunk[-1][1] - done)
        done = chunk[-1][1]
    return Document(name, text, statements)


def explained(classifier: Classifier, document: Document, advance: Callable[[int], None]) -> Document:
    """The document with the words of each statement that has an intent weighed; `advance` counts statements."""
    from communique.explain import weigh

    words = {}
    for place, statement in enumerate(document.statements):
        if statement.intents and (weighed := weigh(classifier, statement.text)):
            words[place] = weighed
        advance(1)
    return replace(document, words=words)


def shown(name: str) -> str:
    """A file's name as text that can be written anywhere: what is not UTF-8, or would steer a terminal, is U+FFFD."""
    return printable(" ".join(decoded(name).splitlines()))


def decoded(text: str) -> str:
    """What the system gave, a name or an argument, as text: bytes that are no UTF-8 become U+FFFD."""
    return os.fsencode(text).decode("utf-8", "replace")


def printable(text: str) -> str:
    """The text without what would steer a terminal."""
    return "".join(sign if sign.isprintable() or sign.isspace() else "\ufffd" for sign in text)


def _files(name: str) -> list[str]:
    path = Path(name)
    if name != STANDARD_INPUT and path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
        kept = [str(file) for file in found if not any(part[0] == "." for part in file.relative_to(path).parts)]
        if not kept:
            raise InputError(f"{shown(name)}: is a folder without a text in it; expected {', '.join(SUFFIXES)} files.")
        return sorted(kept)
    if any(sign in name for sign in "*?[") and not path.exists():  # a pattern that no shell has expanded
        # pathlib's own takes no pattern that begins at the root
        found_names = [file for file in glob.glob(name, recursive=True) if not Path(file).is_dir()]  # noqa: PTH207
        if not found_names:
            raise InputError(f"{shown(name)}: no file matches this pattern.")
        return sorted(found_names)
    return [name]


def _text(name: str) -> str:
    where = "standard input" if name == STANDARD_INPUT else shown(name)
    try:
        raw = sys.stdin.buffer.read() if name == STANDARD_INPUT else Path(name).read_bytes()
    except FileNotFoundError:
        raise InputError(f"{where}: no such file.") from None
    except OSError as error:
        raise InputError(f"{where}: cannot be read ({error.strerror}).") from None
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise InputError(f"{where}: is UTF-16, expected UTF-8. Convert it, e.g. iconv -f UTF-16 -t UTF-8.")
    if b"\0" in raw or raw.startswith(b"%PDF"):
        raise InputError(f"{where}: is no plain text. Save a PDF or Word file as text first, e.g. with pdftotext.")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x}). Convert it, e.g. "
            "iconv -f WINDOWS-1252 -t UTF-8."
        ) from None
    if Path(name).suffix.lower() in PAGES or is_html(text):
        text = text_of(text)
    if not text.strip():
        raise InputError(f"{where}: is empty; expected a text to read.")
    return text
