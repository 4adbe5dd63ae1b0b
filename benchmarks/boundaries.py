"""Where sentences end: the reader against other splitters, on documents marked by hand (datasets/boundaries).

    python benchmarks/boundaries.py [--show]

Precision, recall and F1 of the boundaries inside paragraphs, for each half. A boundary is right where a sentence ends
at exactly the marked character. Every splitter gets the document's paragraphs, so a blank line is found by all and not
counted. pysbd comes with `make peers`. `--show` prints the reader's mistakes in the development half; those of the
held-out half are for nobody to look at.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from communique.reader import sentences

FOLDER = Path(__file__).resolve().parent.parent / "datasets" / "boundaries"
HALVES = ("development", "held_out")
LINE_BREAK = "↵"

Split = Callable[[str], Iterator[tuple[int, int]]]


@dataclass(frozen=True)
class Marked:
    """A document and the offsets at which its sentences end, those before a blank line apart."""

    name: str
    text: str
    ends: frozenset[int]
    paragraphs: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Score:
    """Boundaries that are right, too many, and missing."""

    right: int
    extra: int
    missing: int

    @property
    def precision(self) -> float:
        return self.right / max(self.right + self.extra, 1)

    @property
    def recall(self) -> float:
        return self.right / max(self.right + self.missing, 1)

    @property
    def f1(self) -> float:
        return 2 * self.right / max(2 * self.right + self.extra + self.missing, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="the reader's mistakes in the development half")
    asked = parser.parse_args()
    halves = {half: load(half) for half in HALVES}
    print(
        "; ".join(f"{half}: {len(found)} documents, {sum(len(one.ends) for one in found)} boundaries"
                  for half, found in halves.items())
    )  # fmt: skip
    print(f"{'':<14}" + "".join(f"{half + ' ' + what:>24}" for half in halves for what in ("P", "R", "F1")))
    for name, split in splitters().items():
        start = time.perf_counter()
        scores = [score(split, documents) for documents in halves.values()]
        seconds = time.perf_counter() - start
        cells = [f"{value:>24.3f}" for found in scores for value in (found.precision, found.recall, found.f1)]
        print(f"{name:<14}" + "".join(cells) + f"{seconds:>9.2f} s")
    if asked.show:
        for document in halves["development"]:
            show(document)


def load(half: str) -> list[Marked]:
    """The documents of a half, `HALVES`, in the order of their names."""
    return [parse(file.stem, file.read_text(encoding="utf-8")) for file in sorted((FOLDER / half).glob("*.txt"))]


def parse(name: str, marked: str) -> Marked:
    """Joins a marked file, one sentence a line, to the document that it stands for (see datasets/README.md)."""
    text, ends, paragraphs = "", set(), []
    for paragraph in marked.strip().split("\n\n"):
        start, last = len(text), len(text)
        for line in paragraph.split("\n"):
            ends.add(last)
            text += ("" if text[-1:] in ("", "\n") else " ") + line.replace(LINE_BREAK, "\n")
            last = len(text.rstrip())
        ends.discard(start)
        paragraphs.append((start, last))
        text += "\n\n"
    return Marked(name, text, frozenset(ends), tuple(paragraphs))


def score(split: Split, documents: list[Marked]) -> Score:
    """Counts a splitter's boundaries over documents."""
    right = extra = missing = 0
    for document in documents:
        found = boundaries(split, document)
        right += len(found & document.ends)
        extra += len(found - document.ends)
        missing += len(document.ends - found)
    return Score(right, extra, missing)


def boundaries(split: Split, document: Marked) -> set[int]:
    """Where a splitter ends sentences, white space after them apart and the ends of paragraphs left out."""
    ends = {start + len(document.text[start:end].rstrip()) for start, end in split(document.text)}
    return ends - {end for _, end in document.paragraphs}


def show(document: Marked) -> None:
    """Prints the reader's mistakes in a document: + a boundary too many, - one that it misses."""
    found = boundaries(sentences, document)
    for end in sorted(found ^ document.ends):
        before, after = document.text[max(end - 50, 0) : end], document.text[end : end + 40]
        print(f"{document.name:<12} {'+' if end in found else '-'} {before!r} | {after!r}")


def splitters() -> dict[str, Split]:
    """The reader, nupunkt as it is, pysbd where it is installed, and the expression that everybody writes first."""
    from nupunkt import sent_spans

    found: dict[str, Split] = {"communique": sentences, "nupunkt": _by_paragraph(sent_spans)}
    try:
        import pysbd
    except ImportError:
        pass
    else:
        segmenter = pysbd.Segmenter(language="en", clean=False, char_span=True)
        found["pysbd"] = _by_paragraph(lambda text: ((one.start, one.end) for one in segmenter.segment(text)))
    found["expression"] = _by_paragraph(_by_expression)
    return found


def _by_paragraph(split: Split) -> Split:
    def spans(text: str) -> Iterator[tuple[int, int]]:
        for paragraph in re.finditer(r"(?:(?!\n\n).)+", text, re.DOTALL):
            if not paragraph[0].isspace():
                yield from ((paragraph.start() + a, paragraph.start() + b) for a, b in split(paragraph[0]))

    return spans


def _by_expression(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for gap in re.finditer(r"(?<=[.!?])[\"”’')\]]*\s+(?=[\"“‘'(\[]?[A-Z])", text):
        yield start, gap.end()
        start = gap.end()
    yield start, len(text)


if __name__ == "__main__":
    main()
