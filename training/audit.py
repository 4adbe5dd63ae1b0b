"""Whether a corpus keeps its own rules, and what is in it.

Faults (exit status 1): a schema error, the same or nearly the same text twice in different scenarios or
splits, hashes that do not fit, and, against an outside file, words that give a label away here but not there.
Near duplicates are found by MinHash over word three-grams (Broder 1997); the deeper look is `training.probe`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import krippendorff
import numpy as np
from datasketch import MinHash, MinHashLSH
from sklearn.metrics import cohen_kappa_score

from training import corpus as corpora
from training.console import say
from training.corpus import Corpus
from training.errors import CorpusError
from training.files import sha256, write_json, write_text

NEAR = 0.7  # Jaccard similarity of word three-grams from which two texts count as nearly the same
SHOWN = 10
_WORD = re.compile(r"\w+")


def report(
    folder: Path,
    *,
    deep: bool = False,
    against: Path | None = None,
    out: Path | None = None,
    as_json: bool = False,
) -> int:
    """Prints faults and statistics of the corpus; returns 0, or 1 where a rule is broken.

    Args:
        folder: the corpus.
        deep: look for wrong labels and giveaway words too, and at what TF-IDF reaches (minutes on a large corpus).
        against: JSONL of outside texts, labelled or not, to compare with; implies `deep`.
        out: folder for report.json, report.txt and figures/; what stands there of an older report is replaced.
        as_json: print JSON, not text.

    Raises:
        CorpusError: the corpus or the outside file breaks its schema, or `out` cannot be written.
    """
    data = corpora.load(folder)
    if out:
        _make(out / "figures")
    found: dict[str, Any] = {"statistics": statistics(data), "agreement": agreement(data), "faults": faults(data)}
    lines: list[str] = []
    if deep or against:
        from training import probe  # seconds to import: the quick check goes without

        found |= probe.deep(data, against)
        found["faults"] += probe.faults(found)
        lines = probe.written(found)
    text = _written(data, found, lines)
    if out:
        from training import plots

        write_json(out / "report.json", found)
        write_text(out / "report.txt", text + "\n")
        plots.draw_corpus(out / "figures", data, found.get("realism"))
    say(json.dumps(found, indent=2, ensure_ascii=False) if as_json else text)
    return 1 if found["faults"] else 0


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CorpusError(f"{folder}: cannot be made ({error.strerror}); name another --out.") from None


def faults(data: Corpus) -> list[str]:
    """Every broken rule, in words."""
    return [*duplicates(data), *_hash_faults(data)]


def duplicates(data: Corpus) -> list[str]:
    """Texts that stand twice, exactly or nearly, in different scenarios or splits.

    Inside one scenario of one split likeness is allowed: contrast pairs are made to be alike.
    """
    places = [(split.name, row) for split in data.splits for row in split.rows]
    index = MinHashLSH(threshold=NEAR, num_perm=64)
    grams: list[set[str]] = []
    found: list[str] = []
    for number, (_, row) in enumerate(places):
        words = _WORD.findall(row["text"].lower())
        shingles = {" ".join(words[i : i + 3]) for i in range(max(1, len(words) - 2))}
        sketch = MinHash(num_perm=64)
        sketch.update_batch([shingle.encode() for shingle in shingles])
        for other in index.query(sketch):
            found += _likeness(places, grams, int(other), number, shingles)
        index.insert(str(number), sketch)
        grams.append(shingles)
    return found


def _likeness(places: Sequence[Any], grams: Sequence[set[str]], one: int, two: int, shingles: set[str]) -> list[str]:
    (split, row), (other_split, other) = places[one], places[two]
    same_scenario = row.get("scenario") is not None and row.get("scenario") == other.get("scenario")
    if split == other_split and same_scenario and row["text"] != other["text"]:
        return []
    likeness = len(grams[one] & shingles) / len(grams[one] | shingles)
    if likeness < NEAR:
        return []
    kind = "the same text" if likeness == 1 else f"nearly the same text ({likeness:.0%})"
    return [f"{kind} in {split} ({row['id']}) and {other_split} ({other['id']}): {row['text'][:80]!r}"]


def _hash_faults(data: Corpus) -> list[str]:
    file = data.folder / "SHA256SUMS"
    if not file.exists():
        return []
    result = []
    for line in file.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if not (data.folder / name).exists() or sha256(data.folder / name) != digest:
            result.append(
                f"{data.folder / name}: is not what SHA256SUMS says; after a change to the data raise the version"
            )
    return result


def statistics(data: Corpus) -> dict[str, Any]:
    """Counts and shares by split, and the spread of lengths, registers and voices over all of it."""
    rows = [row for split in data.splits for row in split.rows]
    lengths = np.array([len(row["text"].split()) for row in rows])
    result: dict[str, Any] = {
        "name": data.name,
        "version": data.version,
        "sha256": data.sha256,
        "texts": len(rows),
        "scenarios": len({group for split in data.splits for group in split.groups}),
        "words": {f"{q}%": int(np.percentile(lengths, q)) for q in (10, 25, 50, 75, 90, 99)},
        "splits": {split.name: _counts(split.rows, data) for split in data.splits},
    }
    for key in ("register", "voice"):
        if counts := Counter(str(row[key]) for row in rows if row.get(key)):
            result[key] = dict(counts.most_common())
    if counts := Counter(number for row in rows for number in row.get("rules") or ()):
        result["rules"] = {str(number): counts[number] for number in sorted(counts)}
    return result


def _counts(rows: Sequence[Mapping[str, Any]], data: Corpus) -> dict[str, int]:
    result = {"texts": len(rows), "scenarios": len({str(row.get("scenario", row["id"])) for row in rows})}
    result |= {label: sum(label in row["intents"] for row in rows) for label in data.labels}
    if data.task == "multi_label":
        result["none"] = sum(not row["intents"] for row in rows)
        result["two_or_more"] = sum(len(row["intents"]) > 1 for row in rows)
    return result


def agreement(data: Corpus) -> dict[str, float]:
    """How far the author's and the blind second reader's labels agree, where a row carries both.

    Returns:
        texts; exact (share of equal sets); alpha_X and kappa_X a label: Krippendorff's alpha (2011, "Computing
        Krippendorff's Alpha-Reliability") and Cohen's kappa (1960); alpha, the mean over labels.
    """
    rows = [row for split in data.splits for row in split.rows if "labels_first" in row and "labels_second" in row]
    if not rows:
        return {}
    first, second = ([set(row[key]) for row in rows] for key in ("labels_first", "labels_second"))
    result = {
        "texts": float(len(rows)),
        "exact": float(np.mean([a == b for a, b in zip(first, second, strict=True)])),
    }
    alphas = []
    for label in data.labels:
        pair = np.array([[label in labels for labels in reader] for reader in (first, second)], dtype=float)
        alphas.append(float(krippendorff.alpha(pair, level_of_measurement="nominal")))
        result[f"alpha_{label}"] = alphas[-1]
        result[f"kappa_{label}"] = float(cohen_kappa_score(pair[0], pair[1]))
    result["alpha"] = float(np.mean(alphas))
    return result


def _written(data: Corpus, found: Mapping[str, Any], more: Sequence[str]) -> str:
    numbers = found["statistics"]
    lines = [
        f"{data.folder}: {data.name} {data.version}, {numbers['texts']} texts in {numbers['scenarios']} scenarios "
        f"({data.task}), sha256 {data.sha256[:12]}…",
    ]
    heads = list(next(iter(numbers["splits"].values())))
    lines.append("            " + " ".join(f"{head:>11}" for head in heads))
    for split, counts in numbers["splits"].items():
        lines.append(f"{split:<12}" + " ".join(f"{counts[head]:>11}" for head in heads))
    lines.append("words a text: " + ", ".join(f"{q} {value}" for q, value in numbers["words"].items()))
    for key in ("register", "voice"):
        if key in numbers:
            lines.append(f"{key}: " + ", ".join(f"{name} {count}" for name, count in numbers[key].items()))
    if found["agreement"]:
        lines.append("agreement of two readers: " + ", ".join(f"{k} {v:.3g}" for k, v in found["agreement"].items()))
    lines += more
    problems = found["faults"]
    lines += [f"FAULT {problem}" for problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        lines.append(f"… and {len(problems) - SHOWN} more faults")
    lines.append(f"{len(problems)} faults" if problems else "no fault found")
    return "\n".join(lines)
