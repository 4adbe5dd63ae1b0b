"""MLflow's model registry: which bundles there are, which is the challenger, which the champion, and which was before.

A version is a bundle with the code that serves it (`training/served.py` and the runtime), logged with the run that it
came from. The aliases are moved here and nowhere else; who was champion before is a tag of the registered model.
"""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from communique import bundle as bundles
from communique.bundle import Manifest
from training import run, store
from training.errors import RunError
from training.files import sha256

NAME = "communique"
CHALLENGER, CHAMPION = "challenger", "champion"
BUNDLE = "artifacts/bundle"  # in a version's artifacts
# of `communique.load`; whoever loads a version may change them: load_model(…, model_config={"threads": 1})
OPTIONS = {"threads": None, "precision": None}
_HISTORY = "champions"  # every champion so far, the present one last
_HASH = "bundle.sha256"


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        model: name of the registered model.
        number: from "1" on.
        title: of the model in it, e.g. "minilm 3fa9c120".
        source: where its artifacts are.
        reused: whether it was there before with the same bundle.
    """

    model: str
    number: str
    title: str
    source: str
    reused: bool = False


def register(model: str, bundle: Path, run_id: str) -> Version:
    """Makes a bundle the challenger: a new version, or the one that holds the same bundle already.

    Args:
        model: name of the registered model; made where there is none.
        bundle: a whole bundle.
        run_id: MLflow's, of the run that it came from.

    Raises:
        BundleError: the bundle is not whole.
        TrackingError: the registry cannot be reached.
    """
    manifest = bundles.verify(bundle)
    digest = sha256(bundle / bundles.SUMS)
    with store.connected() as client:
        if not client.search_registered_models(f"name = '{model}'"):
            client.create_registered_model(model, description="Bundles of communique. `champion` is the one to use.")
        there = [one for one in client.search_model_versions(f"name = '{model}'") if one.tags.get(_HASH) == digest]
        if there:
            version = _version(there[0], reused=True)
        else:
            tags = {_HASH: digest, "title": f"{manifest.name} {manifest.version}"}
            place = f"registered-{digest[:12]}"  # a run exported anew is another version: none overwrites another
            source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
            with tempfile.TemporaryDirectory(prefix="communique-register-") as scratch:
                client.log_artifacts(run_id, str(save(bundle, manifest, Path(scratch))), place)
            version = _version(client.create_model_version(model, source, run_id=run_id, tags=tags))
        client.set_registered_model_alias(model, CHALLENGER, version.number)
    return version


def save(bundle: Path, manifest: Manifest, scratch: Path) -> Path:
    """Writes a bundle into `scratch` as a model of MLflow's; returns its folder."""
    folder = scratch / "model"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own type hints, and an example that it misses
        import mlflow.pyfunc
        from mlflow.models import Model

        mlflow.pyfunc.save_model(
            folder,
            python_model=str(Path(__file__).with_name("served.py")),
            artifacts={"bundle": str(bundle.resolve())},
            code_paths=[str(run.ROOT / "communique")],
            pip_requirements=_requirements(),
            signature=_signature(manifest),
            model_config=OPTIONS,
        )
    described = Model.load(folder)
    flavour = described.flavors["python_function"]
    # One name for every bundle, so that it can be fetched by it; and nothing of the machine that it was made on.
    (folder / flavour["artifacts"]["bundle"]["path"]).rename(folder / BUNDLE)
    flavour["artifacts"]["bundle"] = {"path": BUNDLE, "uri": BUNDLE}
    flavour["model_code_path"] = "served.py"
    described.save(folder / "MLmodel")
    return folder


def holder(model: str, alias: str) -> Version | None:
    """The version that has an alias; None where none has, or there is no such model.

    Raises:
        TrackingError: the registry cannot be reached.
    """
    with store.connected() as client:
        found = client.search_registered_models(f"name = '{model}'")
        number = found[0].aliases.get(alias) if found else None
        return _version(client.get_model_version(model, number)) if number else None


def fetch(version: Version, folder: Path) -> Path:
    """Copies the bundle of a version into `folder`; returns where it lies.

    Raises:
        TrackingError: the artifacts cannot be reached.
    """
    from mlflow.artifacts import download_artifacts

    with store.connected():
        source = f"{version.source}/{BUNDLE}"
        return Path(download_artifacts(source, dst_path=str(folder), tracking_uri=store.uri()))


def note(version: Version, tags: Mapping[str, str], words: str) -> None:
    """Writes tags and a description (Markdown) on a version.

    Raises:
        TrackingError: the registry cannot be reached.
    """
    with store.connected() as client:
        for key, value in tags.items():
            client.set_model_version_tag(version.model, version.number, key, value)
        client.update_model_version(version.model, version.number, description=words)


def crown(version: Version) -> None:
    """Moves `champion` to a version, which is the challenger no longer, and remembers the one before.

    Raises:
        TrackingError: the registry cannot be reached.
    """
    with store.connected() as client:
        history = _history(client, version.model)
        client.set_registered_model_alias(version.model, CHAMPION, version.number)
        if history[-1:] != [version.number]:
            client.set_registered_model_tag(version.model, _HISTORY, " ".join([*history, version.number]))
        client.delete_registered_model_alias(version.model, CHALLENGER)


def rollback(model: str) -> tuple[Version, Version]:
    """Moves `champion` back to the version that had it before; returns the one that lost it, and that one.

    Raises:
        RunError: there is no champion, or none before it.
        TrackingError: the registry cannot be reached.
    """
    with store.connected() as client:
        known = client.search_registered_models(f"name = '{model}'")
        history = _history(client, model) if known else []
        if len(history) < 2:
            raise RunError(
                f"{model}: there is no earlier champion to go back to"
                + (f"; version {history[0]} is the first." if history else "; nothing was promoted yet.")
            )
        lost, back = (_version(client.get_model_version(model, number)) for number in (history[-1], history[-2]))
        client.set_registered_model_alias(model, CHAMPION, back.number)
        client.set_registered_model_tag(model, _HISTORY, " ".join(history[:-1]))
    return lost, back


def _history(client: Any, model: str) -> list[str]:
    """Numbers of all champions, the present one last, also where somebody moved the alias by hand."""
    found = client.get_registered_model(model)
    history = found.tags.get(_HISTORY, "").split()
    present = found.aliases.get(CHAMPION)
    return history if present is None or history[-1:] == [str(present)] else [*history, str(present)]


def _version(found: Any, *, reused: bool = False) -> Version:
    return Version(found.name, str(found.version), found.tags.get("title", ""), found.source, reused)


def _requirements() -> list[str]:
    """What serving needs, as it is installed here: the runtime's dependencies and pandas (MLflow adds itself)."""
    wanted = [line for line in metadata.requires("communique") or () if "extra ==" not in line]
    names = [re.split(r"[\s<>=!~\[;]", line)[0] for line in wanted]
    return [f"{name}=={metadata.version(name)}" for name in (*names, "pandas")]


def _signature(manifest: Manifest) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Array, Object, Property

    # A column without a name takes a string, a list, a Series and a DataFrame alike. Of type string it would make the
    # texts "None" and "3" of a request's null and 3; any type leaves them as they are, for `Served` to refuse.
    answers = [
        ColSpec(Array(DataType.string), "intents"),
        ColSpec(Object([Property(label, DataType.double) for label in manifest.labels]), "probabilities"),
        ColSpec(DataType.double, "confidence"),
    ]
    return ModelSignature(Schema([ColSpec(AnyType())]), Schema(answers))
