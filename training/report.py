"""One page a run, for people: what it is, how good it is, and where it goes wrong.

The page stands alone: no script, nothing fetched, light or dark as the reader's machine has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from tqdm import tqdm

from training import analysis, behaviour, evaluate, plots, run, tracking
from training.analysis import Analysis, Predictions, Slice
from training.console import say
from training.files import write_text

PAGE = "report.html"
TEMPLATE = "report.html.j2"
_PREFIXES = {"validation": "val"}  # where figures go by another name than their split
_TITLES = {"test": "Test split", "validation": "Validation split"}


@dataclass(frozen=True)
class Evaluation:
    """What the page tells of one evaluated file.

    Attributes:
        name, title: its name in the run's folder, and for people.
        figures: under their names without the prefix.
        found, analysis: its predictions and what was made of them.
        slices: by field.
        confused: texts by missed and called label.
        drawings: SVG by name.
    """

    name: str
    title: str
    figures: Mapping[str, float]
    found: Predictions
    analysis: Analysis
    slices: Mapping[str, tuple[Slice, ...]]
    confused: Mapping[tuple[str | None, str | None], int]
    drawings: Mapping[str, Markup]


def write(folder: Path) -> Path:
    """Analyses every evaluation in a run's folder, draws its figures and writes its page; returns the page's path.

    Raises:
        RunError: the run is not finished.
    """
    folder = run.find(str(folder))
    record = run.finished(folder) or {}
    metrics = _json(folder / "metrics.json")
    names = tqdm(analysis.names(folder), desc="report", unit="file", disable=None, leave=False)
    evaluations = [_evaluation(folder, name, metrics) for name in names]
    history = [json.loads(line) for line in _lines(folder / "history.jsonl")]
    outcomes = [_outcome(json.loads(line)) for line in _lines(folder / "predictions" / "behaviour.jsonl")]
    bias = folder / "predictions" / "bias.json"
    page = _templates().get_template(TEMPLATE).render(
        folder=folder.resolve().name,
        record=record,
        metrics=metrics,
        evaluations=evaluations,
        overview=_overview(metrics, evaluations),
        calibration=_json(folder / "calibration.json"),
        multi=record["task"] == "multi_label",
        few_labels=len(record["labels"]) <= plots.MAX_LABELS,
        epochs=len(history),
        learning=_drawn(plots.history(history), folder, "history") if history else None,
        outcomes=outcomes,
        suites=behaviour.figures(outcomes),
        groups=behaviour.groups(outcomes),
        bias=_json(bias) if bias.exists() else None,
        config=(folder / "config.yaml").read_text(encoding="utf-8"),
        environment=_json(folder / "environment.json"),
    )  # fmt: skip
    write_text(folder / PAGE, page)
    return folder / PAGE


def command(target: str) -> int:
    """The `report` command; of a folder of seeds, a page a seed."""
    for folder in run.members(run.find(target)):
        page = write(folder)
        tracking.log_files(folder)
        say(str(page))
    return 0


def _evaluation(folder: Path, name: str, metrics: Mapping[str, float]) -> Evaluation:
    found = analysis.read(folder, name)
    result = analysis.analyse(found)
    analysis.write(folder, result)
    figures = _figures(metrics, _PREFIXES.get(name, name)) or evaluate.figures(
        found.truth, found.probabilities, found.thresholds, labels=found.labels, task=found.task, groups=found.groups
    )
    plots.save(plots.slices(result), folder / "figures" / f"{name}-slices.png")  # the page has them as a table
    drawings = {
        "reliability": plots.reliability(found),
        "coverage": plots.coverage(result),
        "precision_recall": plots.precision_recall(found),
    }
    return Evaluation(
        name=name,
        title=_TITLES.get(name, name),
        figures=figures,
        found=found,
        analysis=result,
        slices={field: tuple(several) for field, several in groupby(result.slices, key=lambda one: one.field)},
        confused={(pair.missed, pair.called): pair.texts for pair in result.confusion},
        drawings={kind: _drawn(figure, folder, f"{name}-{kind}") for kind, figure in drawings.items()},
    )


def _overview(
    metrics: Mapping[str, float], evaluations: Sequence[Evaluation]
) -> list[tuple[str, int | None, Mapping[str, float]]]:
    """Title, texts and figures of every evaluation; last those of which the folder has figures and no predictions."""
    rows = [(one.title, len(one.found.rows), one.figures) for one in evaluations]
    here = {_PREFIXES.get(one.name, one.name) for one in evaluations}
    others = [name.removesuffix("/macro_f1") for name in metrics if name.endswith("/macro_f1")]
    return [*rows, *((prefix, None, _figures(metrics, prefix)) for prefix in others if prefix not in here)]


def _figures(metrics: Mapping[str, float], prefix: str) -> dict[str, float]:
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in metrics.items() if name.startswith(start)}


def _drawn(figure: Any, folder: Path, name: str) -> Markup:
    plots.save(figure, folder / "figures" / f"{name}.png")
    return Markup(plots.svg(figure))


def _outcome(row: Mapping[str, Any]) -> behaviour.Outcome:
    return behaviour.Outcome(row, row["group"], row["passed"], tuple(tuple(one) for one in row["found"]))


def _json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text(encoding="utf-8").split("\n") if line] if path.exists() else []


def _moment(text: str) -> str:
    moment = datetime.fromisoformat(text)
    return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {
        "figure": lambda value: "–" if value is None else f"{value:.3f}",
        "share": lambda value: f"{value:.1%}",
        "percent": lambda value: f"{value * 100:.1f}%",
        "number": lambda value: f"{value:,.0f}",
        "moment": _moment,
    }
    return templates
