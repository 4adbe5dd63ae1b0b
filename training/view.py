"""What MLflow shows first: the experiment, its description, and two shared views of its runs."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

from training import store

EXPERIMENT = "communique"
RUNS, NESTED = "runs", "nested"  # the shared views: the best runs first; seeds and trials folded under their parents
_DESCRIPTION = """**test/macro_f1** decides: mean F1 over the intents on the test split. Open for how to read the rest.

* Each run is one training of `python -m training train configs/….yaml`, with thresholds fitted on validation.
* `test/macro_f1_low` and `_high` bound the headline (95%, resampled by scenario).
* `val/…` guided the training; `real/…` (where present) is an outside set that nothing was tuned on.
* Compare runs of one **Dataset** only: a figure on other data is another figure.
* Figures and predictions are under Artifacts. Only runs tagged `status=completed` are whole; what was stopped is tagged
  `status=interrupted`.
* A run with `stage=seeds` is one config with several seeds: its figures are their means, `…_std` their standard
  deviations, `…_low` and `…_high` the means of the seeds' own bounds. The seeds are left out of the first view; the
  second, which `python -m training ui` links as well, has them folded under it.
* `stage=compare` says which differences between runs are real.
* A run with `stage=sweep` looked for a better config: `val/…` is its best trial's figure. Its trials are left out of
  the first view as seeds are; those given up early are tagged `status=pruned`.
"""
_METRICS = (
    "test/macro_f1", "test/macro_f1_std", "test/macro_f1_low", "test/macro_f1_high", "behaviour/all",
    "test/background_f1", "test/exact_match", "test/ece", "time/fit_seconds",
)  # fmt: skip
_COLUMNS = [
    *(f"metrics.`{name}`" for name in _METRICS), "tags.`stage`", "tags.`status`", "attributes.`Dataset`",
    "params.`learning_rate`", "params.`epochs`", "params.`seed`",
]  # fmt: skip
_NAME, _CREATED = "attributes.`Run Name`", "runDateAndNestInfo"  # columns that are always there


def experiment(client: Any) -> str:
    """The id of the project's experiment; it is made where there is none, and its first view brought up to date."""
    found = client.get_experiment_by_name(EXPERIMENT)
    if found is None:
        # A database alone would put artifacts into ./mlruns of wherever one stands.
        place = None if store.uri().startswith("http") else (store.STORE / "artifacts").as_uri()
        made, tags = str(client.create_experiment(EXPERIMENT, artifact_location=place)), {}
    else:
        made, tags = str(found.experiment_id), found.tags
    if any(tags.get(_tag(name)) != shared for name, shared in _views().items()):  # new, or made by an earlier version
        client.set_experiment_tag(made, "mlflow.note.content", _DESCRIPTION)
        for name, shared in _views().items():
            client.set_experiment_tag(made, _tag(name), shared)
    return made


def link(server: str, made: str, name: str) -> str:
    """Where a server shows a shared view of the experiment with the id `made`."""
    return f"{server}/#/experiments/{made}/runs?workflowType=machine_learning&viewStateShareKey={name}"


def _tag(name: str) -> str:
    return f"mlflow.sharedViewState.{name}"


def _views() -> dict[str, str]:
    """Columns, order and charts, as MLflow 3.17 keeps a shared view (undocumented, hence the pin in pyproject.toml)."""
    shared = {
        "selectedColumns": _COLUMNS, "columnOrder": [_NAME, *_COLUMNS, _CREATED, "duration"],
        "columnWidths": {_NAME: 230, **{f"metrics.`{name}`": 60 + 6 * len(name) for name in _METRICS}},
        "startTime": "ALL", "lifecycleFilter": "Active", "modelVersionFilter": "All Runs",
        "datasetsFilter": [], **_charts(),
    }  # fmt: skip
    # MLflow folds nested runs only where it sorts by date: sorted by a figure they would stand beside their own parent.
    best = {
        "orderByKey": "metrics.`test/macro_f1`", "orderByAsc": False,
        "searchFilter": "tags.stage != 'seed' AND tags.stage != 'trial'",
    }  # fmt: skip
    nested = {"orderByKey": "attributes.start_time", "orderByAsc": False, "searchFilter": ""}
    return {name: _packed({**shared, **own}) for name, own in ((RUNS, best), (NESTED, nested))}


def _charts() -> dict[str, Any]:
    """The chart view: what decides first, then how the trainings went, then MLflow's own groups by prefix, folded."""
    cost = {"xaxis": {"key": "time/fit_seconds", "type": "METRIC"}, "yaxis": {"key": "test/macro_f1", "type": "METRIC"}}
    headline: list[dict[str, Any]] = [
        *({"type": "BAR", "metricKey": name} for name in ("test/macro_f1", "behaviour/all")),
        {"type": "SCATTER", **cost},
    ]
    course = [{"type": "LINE", "metricKey": name} for name in ("val/macro_f1", "val/loss", "train/loss")]
    charts = [
        {"uuid": f"{section}-{place}", "metricSectionId": section, "runsCountToCompare": 20, "deleted": False,
         "isGenerated": False, **chart}
        for section, found in (("headline", headline), ("course", course)) for place, chart in enumerate(found)
    ]  # fmt: skip
    shown = {"headline": "Headline", "course": "Course of training"}
    folded = {name: name for name in ("test", "val", "real", "behaviour", "bias", "train", "trials", "size", "time")}
    sections = [
        {"uuid": uuid, "name": name, "display": uuid in shown, "isReordered": False, "deleted": False}
        for uuid, name in (shown | folded).items()
    ]
    return {"compareRunCharts": charts, "compareRunSections": sections, "isAccordionReordered": True}


def _packed(state: Mapping[str, Any]) -> str:
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
