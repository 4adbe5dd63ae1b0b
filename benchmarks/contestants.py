"""Trainers that take the same corpus and encoder, each run in a process of its own so that memory can be told apart.

    python benchmarks/contestants.py NAME [--corpus FOLDER] [--epochs N] [--limit N] [--seed N] [--on FILE.jsonl]

prints one line of JSON: seconds of training, peak resident memory in MiB, macro-F1 at 0.5 and with this project's
calibration (shifts, temperature and thresholds fitted on validation). The peers come with `make peers` (see Makefile).

communique   training/encoder.py with configs/minilm.yaml
tfidf        training/baseline.py with configs/tfidf.yaml
stock        Hugging Face Trainer on the same encoder, with the same batch, learning rate and epochs, dynamic padding
stock-default  the same with the Trainer's own batch (8) and learning rate (5e-5)
setfit       SetFit's contrastive fine-tuning and logistic head (Tunstall et al. 2022), one pair of each kind a text
spacy        spaCy's textcat_multilabel ensemble (bag of words and a convolutional network), best epoch by validation
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training import calibrate, config, corpus, evaluate, train

ROOT = Path(__file__).resolve().parent.parent
Scores = Callable[[Sequence[str]], Any]  # texts -> logits (texts, labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONTESTANTS)
    parser.add_argument("--corpus", default=str(ROOT / "datasets/statements"))
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--limit", type=int, help="train on this many texts, drawn at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--on", type=Path, help="another labelled file to evaluate on")
    print(json.dumps(measured(parser.parse_args())))


def measured(asked: argparse.Namespace) -> dict[str, Any]:
    import torch

    torch.set_num_threads(asked.threads)
    data = corpus.load(asked.corpus)
    if asked.limit:
        data = _cut(data, asked.limit, asked.seed)
    before = _peak()
    start = time.perf_counter()
    logits = CONTESTANTS[asked.name](data, asked.epochs, asked.seed)
    seconds = time.perf_counter() - start
    result = {
        "name": asked.name, "seed": asked.seed, "texts": len(data.train), "epochs": asked.epochs,
        "seconds": round(seconds, 1), "peak_mib": round(_peak()), "before_mib": round(before),
    }  # fmt: skip
    found = logits(data.validation.texts)
    shifts = calibrate.shifts(found, data.validation.truth, data.task)
    calibration = calibrate.fit(found + shifts, data.validation.truth, data.task)
    splits = {"validation": data.validation, "test": data.test}
    if asked.on:
        splits[asked.on.stem] = corpus.load_file(asked.on, data.labels, data.task)
    for name, split in splits.items():
        scores = logits(split.texts)
        for how, moved, chosen in (
            ("half", 0.0, calibrate.Calibration(1.0, (0.5,) * len(data.labels))),
            ("calibrated", shifts, calibration),
        ):
            values = calibrate.probabilities(scores + moved, chosen.temperature, data.task)
            figures = evaluate.figures(split.truth, values, chosen.thresholds, labels=data.labels, task=data.task)
            result[f"{name}/{how}"] = round(figures["macro_f1"], 4)
    return result


def _cut(data: corpus.Corpus, limit: int, seed: int) -> corpus.Corpus:
    places = sorted(random.Random(seed).sample(range(len(data.train)), min(limit, len(data.train))))
    rows = tuple(data.train.rows[i] for i in places)
    return dataclasses.replace(data, train=corpus.Split("train", rows, data.train.truth[places]))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _communique(data: corpus.Corpus, epochs: int, seed: int) -> Scores:
    settings = config.load(ROOT / "configs/minilm.yaml", [f"epochs={epochs}", f"seed={seed}"])
    return train.fit(settings, data, _told).logits


def _tfidf(data: corpus.Corpus, epochs: int, seed: int) -> Scores:
    return train.fit(config.load(ROOT / "configs/tfidf.yaml", [f"seed={seed}"]), data, _told).logits


def _told(epoch: int, figures: Any) -> None:
    sys.stderr.write(f"epoch {epoch} {figures.get('val/macro_f1', 0):.3f}\n")


def _stock(data: corpus.Corpus, epochs: int, seed: int, batch: int = 64, rate: float = 3e-4) -> Scores:
    """What the Trainer's documentation does: tokenise once, pad each batch to its longest, keep the best epoch."""
    import torch
    from sklearn.metrics import average_precision_score
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )  # fmt: skip

    from training.pretrained import EMBEDDED, source_of

    source, _ = source_of(EMBEDDED)
    tokenizer = AutoTokenizer.from_pretrained(source, model_max_length=128)
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(data.labels), problem_type="multi_label_classification"
    )

    def rows(split: corpus.Split) -> list[dict[str, Any]]:
        ids = tokenizer(split.texts, truncation=True)["input_ids"]
        return [{"input_ids": i, "labels": t.astype(np.float32)} for i, t in zip(ids, split.truth, strict=True)]

    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model,
            TrainingArguments(
                scratch, per_device_train_batch_size=batch, learning_rate=rate, num_train_epochs=epochs, seed=seed,
                eval_strategy="epoch", save_strategy="epoch", save_total_limit=1, load_best_model_at_end=True,
                metric_for_best_model="ap", report_to="none", disable_tqdm=True, use_cpu=True, warmup_steps=0.1,
            ),
            train_dataset=rows(data.train),
            eval_dataset=rows(data.validation),
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_metrics=lambda found: {
                "ap": average_precision_score(found.label_ids, found.predictions, average="macro")
            },
        )  # fmt: skip
        trainer.train()

    @torch.inference_mode()
    def logits(texts: Sequence[str]) -> Any:
        model.eval()
        parts = [texts[i : i + 64] for i in range(0, len(texts), 64)]
        return np.concatenate(
            [model(**tokenizer(list(p), truncation=True, padding=True, return_tensors="pt")).logits for p in parts]
        )

    return logits


def _stock_default(data: corpus.Corpus, epochs: int, seed: int) -> Scores:
    return _stock(data, epochs, seed, batch=8, rate=5e-5)


def _setfit(data: corpus.Corpus, epochs: int, seed: int) -> Scores:
    """SetFit with its defaults but for the number of pairs: twice the texts, where the default is all pairs."""
    import datasets
    from setfit import SetFitModel, Trainer, TrainingArguments

    from training.pretrained import EMBEDDED, source_of

    source, _ = source_of(EMBEDDED)
    model = SetFitModel.from_pretrained(source, multi_target_strategy="one-vs-rest")
    rows = datasets.Dataset.from_dict({"text": data.train.texts, "label": data.train.truth.tolist()})
    with tempfile.TemporaryDirectory() as scratch:
        # max_steps bounds the pairs that it makes before it draws from them: without it 15,000 texts want 26 GB
        steps = 2 * len(rows) // 16
        arguments = TrainingArguments(
            output_dir=scratch, num_iterations=1, num_epochs=1, max_steps=steps, batch_size=16, seed=seed,
            report_to="none",
        )  # fmt: skip
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    return lambda texts: _logit(np.asarray(model.predict_proba(list(texts), as_numpy=True)))


def _spacy(data: corpus.Corpus, epochs: int, seed: int) -> Scores:
    import spacy
    from sklearn.metrics import average_precision_score
    from spacy.training import Example
    from spacy.util import compounding, fix_random_seed, minibatch

    fix_random_seed(seed)
    language = spacy.blank("en")
    pipe = language.add_pipe("textcat_multilabel")
    for label in data.labels:
        pipe.add_label(label)

    def probabilities(texts: Sequence[str]) -> Any:
        return np.array([[doc.cats[label] for label in data.labels] for doc in language.pipe(texts)])

    examples = [
        Example.from_dict(language.make_doc(text), {"cats": dict(zip(data.labels, map(float, truth), strict=True))})
        for text, truth in zip(data.train.texts, data.train.truth, strict=True)
    ]
    optimizer = language.initialize(lambda: examples)
    best, kept, draw = -1.0, language.to_bytes(), random.Random(seed)
    for _ in range(2 * epochs):
        draw.shuffle(examples)
        for batch in minibatch(examples, size=compounding(32.0, 256.0, 1.005)):
            language.update(batch, sgd=optimizer, drop=0.2)
        with language.use_params(optimizer.averages):
            found = probabilities(data.validation.texts)
            figure = float(average_precision_score(data.validation.truth, found, average="macro"))
            if figure > best:
                best, kept = figure, language.to_bytes()
    language.from_bytes(kept)
    return lambda texts: _logit(probabilities(texts))


def _logit(values: Any) -> Any:
    clipped = np.clip(values, 1e-6, 1 - 1e-6)
    return np.log(clipped / (1 - clipped))


CONTESTANTS: dict[str, Callable[[corpus.Corpus, int, int], Scores]] = {
    "communique": _communique,
    "tfidf": _tfidf,
    "stock": _stock,
    "stock-default": _stock_default,
    "setfit": _setfit,
    "spacy": _spacy,
}


if __name__ == "__main__":
    main()
