"""Whether a bundle still gives the answers that it gave when it was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from communique import bundle
from communique.classifier import Classifier
from communique.errors import BundleError

TOLERANCE = {"fp32": 0.001, "int8": 0.05}  # int8 kernels differ by processor; measured on export


def check(path: Path) -> str:
    """Verifies hashes and golden texts of the bundle at `path`; returns a line that says what was checked.

    Raises:
        BundleError: a file or an answer is not what it was at export.
    """
    manifest = bundle.verify(path)
    classifier = Classifier(bundle.read(path))
    texts = [str(item["text"]) for item in manifest.golden]
    if not texts:
        return "all hashes right; the bundle carries no golden texts"
    expected = np.asarray([item["probabilities"] for item in manifest.golden], dtype=np.float32)
    found = classifier.predict_proba(texts)
    difference = np.abs(found - expected).max(axis=1)
    worst = int(difference.argmax())
    if not difference[worst] <= TOLERANCE[manifest.precision]:
        raise BundleError(
            f"{path}: the golden text {texts[worst][:60]!r} got {found[worst].round(3).tolist()}, expected "
            f"{expected[worst].round(3).tolist()}; this build of onnxruntime does not answer as the model did."
        )
    return f"all hashes right, {len(texts)} golden texts answered as at export"
