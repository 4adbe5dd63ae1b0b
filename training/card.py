"""The model card that travels in a bundle."""

from __future__ import annotations

from communique.bundle import Manifest


def model_card(manifest: Manifest) -> str:
    """README.md of a bundle, after Mitchell et al. 2019, "Model Cards for Model Reporting"."""
    figures = manifest.figures
    rows = []
    for label, threshold in zip(manifest.labels, manifest.thresholds, strict=True):
        cells = (figures.get(f"test/{name}_{label}", float("nan")) for name in ("precision", "recall", "f1", "ap"))
        rows.append(f"| {label} | " + " | ".join(f"{cell:.3f}" for cell in cells) + f" | {threshold:.2f} |")
    interval = ""
    if "test/macro_f1_low" in figures:
        interval = f" (95% interval {figures['test/macro_f1_low']:.3f} to {figures['test/macro_f1_high']:.3f})"
    table = "\n".join(rows)
    return f"""---
library_name: transformers
pipeline_tag: text-classification
license: apache-2.0
base_model: {manifest.encoder.get("name", "unknown")}
tags: [communique, diplomacy, intent, onnx]
---

# {manifest.name} {manifest.version}

Labels: {", ".join(manifest.labels)} ({manifest.task.replace("_", "-")}); a text with no label is background.

| label | precision | recall | F1 | average precision | threshold |
|---|---|---|---|---|---|
{table}

Macro-F1 {figures.get("test/macro_f1", float("nan")):.3f}{interval} on the test split of its corpus,
{manifest.corpus.get("name")} {manifest.corpus.get("version")} (sha256 {str(manifest.corpus.get("sha256"))[:12]}…).
Logits are divided by {manifest.temperature:.3f} before the sigmoid; thresholds were fitted on validation.

## Use

```python
import communique
classifier = communique.load("path/to/this/folder")
classifier("Moscow is ready for a ceasefire tomorrow if Kyiv withdraws.").intents
```

The folder also loads with `transformers.pipeline("text-classification", model="path/to/this/folder", top_k=None)`;
thresholds and temperature are communique's and are not applied there.

## Limits

English only. Trained on composed statements, not on quotations; it reads one sentence at a time and knows nothing of
the sentences around it. It labels what the words do, not whether they are true, sincere or wise. Do not use it alone
to decide anything about a person or a state.

## Licence

Weights and corpus-derived parts: Apache-2.0 (encoder: {manifest.encoder.get("name", "unknown")},
{manifest.encoder.get("licence", "licence unknown")}); the corpus itself: CC BY 4.0.
"""
