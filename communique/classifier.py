"""Texts to intents: tokenise, run the ONNX model, calibrate, apply the thresholds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from communique import bundle
from communique.errors import BundleError, InputError

if TYPE_CHECKING:
    from sklearn.utils import Tags

    from communique.explain import Explanation

Floats = npt.NDArray[np.float32]

BATCH = 256  # tokens a forward pass, padding included: their numbers stay in the processor's cache
SLOWER = ["SkipLayerNormFusion", "BiasGeluFusion"]  # than what they fuse: five times, and twice
CHUNK = 4096  # texts held at a time when streaming
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


@dataclass(frozen=True)
class Statement:
    """One sentence, what it does, and where it stood.

    Attributes:
        text: the sentence; `document[start:end]` where it was read from a document.
        intents: the labels whose probability reached their threshold, in the model's order; empty for
            background.
        probabilities: calibrated probability of every label.
        start, end: character offsets in the document; 0 and len(text) outside one.
        confidence: how clear the decision was, 0 (on the edge) to 1. Multi-label: the way that a probability
            keeps from its threshold, as a share of all the way there is on its side, for the label where that
            share is smallest. Single-label: the highest probability less the second.
        unsure: whether the confidence is below the classifier's `min_confidence`. An unsure statement keeps
            its intents: they are what would have been decided.
    """

    text: str
    intents: tuple[str, ...]
    probabilities: dict[str, float]
    start: int
    end: int
    confidence: float = 1.0
    unsure: bool = False


class Classifier:
    """A loaded model. Make one with `communique.load()`; share it between threads.

    Attributes:
        classes_: label names, in the order of the columns of `predict_proba`.
        thresholds: float array, one a label; assign to change the decision (multi-label only). Where texts leave the
            model early, they do so far from the thresholds of the bundle: for others see `precision` of `load`.
        min_confidence: statements below it are marked unsure; assign to change it.
        manifest: what the bundle says of itself.
    """

    def __init__(self, source: bundle.Bundle, *, threads: int | None = None, min_confidence: float = 0.0) -> None:
        self._source, self._threads = source, _positive(threads)
        self.min_confidence = _share(min_confidence)
        self.manifest = source.manifest
        self.classes_ = self.manifest.labels
        self.thresholds = np.asarray(self.manifest.thresholds, dtype=np.float32)
        self._tokenizer = _tokenizer(source)
        self._session = _session(source)
        self._inputs = {node.name for node in self._session.get_inputs()}

    @overload
    def __call__(self, texts: str) -> Statement: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, texts: Iterable[str]) -> list[Statement]: ...

    def __call__(self, texts: str | Iterable[str]) -> Statement | list[Statement]:
        """Classifies one text into a Statement, or several into a list of them.

        Raises:
            InputError: something in `texts` is not a string.
        """
        if isinstance(texts, str):
            return next(self.stream([texts]))
        return list(self.stream(texts))

    def stream(self, texts: Iterable[str]) -> Iterator[Statement]:
        """Classifies any number of texts in constant memory, keeping their order."""
        remaining = iter(texts)
        while chunk := list(islice(remaining, CHUNK)):
            yield from self._statements(chunk, ((0, len(text)) for text in chunk))

    def read(self, document: str) -> list[Statement]:
        """Splits a document into sentences and classifies each.

        Plain text and Markdown. For every statement `document[s.start:s.end] == s.text`.
        """
        from communique.reader import sentences

        spans = list(sentences(document))
        return list(self._statements([document[start:end] for start, end in spans], spans))

    def explain(self, text: str) -> Explanation:
        """Which words of a text carry its prediction, by leaving out one word at a time.

        Costs as much as the text once for each of its words.

        Raises:
            InputError: `text` is not a string, or has more words than `communique.explain.MAX_WORDS`.
        """
        from communique.explain import explain

        return explain(self, text)

    def predict(self, texts: Sequence[str]) -> npt.NDArray[Any]:
        """Decisions, in scikit-learn's shapes.

        Returns:
            Multi-label: int array (texts, labels) of 0 and 1. Single-label: array (texts,) of label names.
        """
        decisions = self._decide(self.predict_proba(texts))
        if self.manifest.task == "single_label":
            names: npt.NDArray[Any] = np.asarray(self.classes_)[decisions.argmax(axis=1)]
            return names
        return np.asarray(decisions, dtype=np.int64)

    def predict_proba(self, texts: Sequence[str]) -> Floats:
        """Calibrated probabilities, float32 (texts, labels), columns in the order of `classes_`.

        A text longer than the model's window is read in windows that overlap by a quarter; a label's
        probability is its highest over the windows (single-label: the mean of the logits).

        Raises:
            InputError: `texts` is a bare string, or an item is not a string.
            BundleError: the bundle's model or tokenizer fails on a text.
        """
        logits = self._finite(self._logits(texts)) / self.manifest.temperature
        if self.manifest.task == "single_label":
            shifted = np.exp(logits - logits.max(axis=1, keepdims=True)) if len(logits) else logits
            return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), dtype=np.float32)
        with np.errstate(over="ignore"):  # of logits below -88; the sigmoid is 0 there
            return np.asarray(1 / (1 + np.exp(-logits)), dtype=np.float32)

    def fit(self, *_: object) -> Classifier:
        """Refuses: the model comes trained. It makes the classifier an estimator for scikit-learn.

        Raises:
            InputError: always; where a pipeline is to be fitted, `sklearn.frozen.FrozenEstimator(classifier)`
                keeps the model as it is.
        """
        raise InputError(
            "a Classifier comes trained and cannot be fitted again. In a pipeline that is fitted put "
            "sklearn.frozen.FrozenEstimator(classifier); for a model of your own see python -m training."
        )

    def __sklearn_tags__(self) -> Tags:
        """What scikit-learn asks of an estimator: a fitted classifier of strings."""
        from sklearn.utils import ClassifierTags, InputTags, Tags, TargetTags  # called by scikit-learn alone

        several = self.manifest.task == "multi_label"
        return Tags(
            estimator_type="classifier",
            target_tags=TargetTags(required=False, multi_output=several, single_output=not several),
            classifier_tags=ClassifierTags(multi_label=several),
            input_tags=InputTags(one_d_array=True, two_d_array=False, string=True),
            requires_fit=False,
        )

    def _logits(self, texts: Sequence[str]) -> Floats:
        cleaned = [_clean(text, i) for i, text in enumerate(_checked(texts))]
        try:
            encodings = self._tokenizer.encode_batch_fast(cleaned)
        except Exception as error:  # the library raises a bare Exception
            raise self._broken(bundle.TOKENIZER, error) from None
        windows = [(i, window) for i, first in enumerate(encodings) for window in (first, *first.overflowing)]
        windows.sort(key=lambda pair: len(pair[1]))  # like lengths share a batch: little padding
        bounds = _batches([len(window) for _, window in windows])
        outputs = self._forward_all([[window for _, window in windows[start:end]] for start, end in bounds])
        return _merge([i for i, _ in windows], outputs, len(encodings), self.manifest.task)

    def _forward_all(self, batches: Sequence[Sequence[Any]]) -> Floats:
        """Logits (windows, labels)."""
        # a thread a batch: one batch over all threads would wait for the slowest of them at each of its operators
        threads = min(self._threads or _cores(), len(batches))
        if threads < 2:
            outputs = [self._forward(batch) for batch in batches]
        else:
            # made anew each time: threads that wait would be lost in a process that is forked
            with ThreadPoolExecutor(threads) as pool:
                outputs = list(pool.map(self._forward, batches))
        return np.concatenate([np.empty((0, len(self.classes_)), dtype=np.float32), *outputs])

    def _forward(self, batch: Sequence[Any]) -> Floats:
        rows = [window.ids for window in batch]  # a new list each time that it is asked for
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        try:
            (logits,) = self._session.run(["logits"], {k: v for k, v in feed.items() if k in self._inputs})
        except Exception as error:  # onnxruntime has a dozen classes for this and no common base
            raise self._broken(bundle.MODELS[self._source.precision], error) from None
        if logits.shape != (len(batch), len(self.classes_)):
            found = f"an output of shape {logits.shape} for {len(batch)} texts and {len(self.classes_)} labels"
            raise self._broken(bundle.MODELS[self._source.precision], found)
        return np.asarray(logits, dtype=np.float32)

    def _finite(self, logits: Floats) -> Floats:
        if not np.isfinite(logits).all():
            raise self._broken(bundle.MODELS[self._source.precision], "answers that are no numbers")
        return logits

    def _broken(self, name: str, what: object) -> BundleError:
        return BundleError(f"{self._source.path / name}: does not work ({what}). Export or download the bundle again.")

    def _decide(self, probabilities: Floats) -> npt.NDArray[np.bool_]:
        if self.manifest.task == "single_label":
            decided = np.zeros(probabilities.shape, dtype=np.bool_)
            decided[np.arange(len(decided)), probabilities.argmax(axis=1)] = True
            return decided
        return np.asarray(probabilities >= np.asarray(self.thresholds), dtype=np.bool_)

    def _statements(self, texts: Sequence[str], spans: Iterable[tuple[int, int]]) -> Iterator[Statement]:
        probabilities = self.predict_proba(texts)
        sure = confidence(probabilities, np.asarray(self.thresholds), self.manifest.task).astype(np.float32)
        columns = (probabilities, self._decide(probabilities), sure, sure < self.min_confidence)
        for text, (start, end), row, decided, clarity, unsure in zip(
            texts, spans, *(column.tolist() for column in columns), strict=True
        ):
            intents = tuple(label for label, yes in zip(self.classes_, decided, strict=True) if yes)
            yield Statement(text, intents, dict(zip(self.classes_, row, strict=True)), start, end, clarity, unsure)

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle carries: the bundle's bytes and the options, no session."""
        return {
            "source": self._source,
            "threads": self._threads,
            "min_confidence": self.min_confidence,
            "thresholds": self.thresholds,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Builds a fresh session from the bundle that the pickle carried."""
        thresholds = state.pop("thresholds")
        self.__init__(**state)  # type: ignore[misc]
        self.thresholds = thresholds

    def __repr__(self) -> str:
        """Name, version and labels."""
        return f"Classifier({self.manifest.name} {self.manifest.version}: {', '.join(self.classes_)})"


def load(
    path: str | Path | None = None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    min_confidence: float = 0.0,
) -> Classifier:
    """Loads a model: the one in the installed wheel, or the bundle at `path`.

    Args:
        path: a bundle's folder; None for the model that came with the package.
        threads: processor threads, each with a batch of its own; None for as many as there are cores.
        precision: "int8" (small and fast; texts may leave early, see the bundle's `quantisation`) or "fp32" (every
            text through every layer); None for what the bundle recommends.
        min_confidence: 0 to 1; statements whose `confidence` is below it are marked `unsure`.

    Raises:
        BundleError: there is no bundle there, or it is incomplete, altered or too new.
        InputError: `threads` or `min_confidence` is out of its range.
    """
    if path is None:
        path = Path(__file__).parent / "model"
        if not path.is_dir():
            raise BundleError(
                "this installation of communique carries no model. Install a wheel made by `make model`, "
                "or name a bundle's folder: communique.load('bundles/minilm')."
            )
    return Classifier(bundle.read(path, precision), threads=threads, min_confidence=min_confidence)


def confidence(probabilities: npt.NDArray[Any], thresholds: npt.NDArray[Any], task: str) -> npt.NDArray[Any]:
    """`Statement.confidence` of each row (texts,) of probabilities (texts, labels)."""
    if task == "single_label":
        ranked = np.sort(probabilities, axis=1)
        return np.asarray(ranked[:, -1] - (ranked[:, -2] if ranked.shape[1] > 1 else 0))
    way = np.where(probabilities >= thresholds, 1 - thresholds, thresholds)
    # a threshold may be set to 0 or 1, where one side has no length
    shares = np.abs(probabilities - thresholds) / np.maximum(way, np.finfo(np.float32).tiny)
    return np.asarray(np.minimum(shares, 1).min(axis=1))


def _tokenizer(source: bundle.Bundle) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_str(source.tokenizer.decode("utf-8"))
    except Exception as error:  # the library raises a bare Exception
        raise BundleError(f"{source.path / bundle.TOKENIZER}: cannot be read ({error}).") from None
    tokenizer.no_padding()
    tokenizer.enable_truncation(source.manifest.max_length, stride=source.manifest.max_length // 4)
    return tokenizer


def _positive(threads: int | None) -> int | None:
    if threads is not None and threads < 1:
        raise InputError(f"threads must be 1 or more, found {threads}.")
    return threads


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _session(source: bundle.Bundle) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only
    # a model may name files that its weights are in: it finds none
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    where = source.path / bundle.MODELS[source.precision]
    try:
        session = onnxruntime.InferenceSession(
            source.model, options, providers=["CPUExecutionProvider"], disabled_optimizers=SLOWER
        )
    except Exception as error:  # onnxruntime has a dozen classes for this and no common base
        raise BundleError(f"{where}: not a model ({error}).") from None
    inputs = {node.name: node.type for node in session.get_inputs()}
    outputs = {node.name: node.type for node in session.get_outputs()}
    whole = not inputs.keys() - _INPUTS and {*inputs.values()} == {"tensor(int64)"}
    if not whole or outputs.get("logits") != "tensor(float)":
        raise BundleError(
            f"{where}: not a classifier; expected int64 inputs out of {', '.join(sorted(_INPUTS))} and a float output "
            f"logits, found {_listed(inputs)} and {_listed(outputs)}."
        )
    return session


def _listed(nodes: Mapping[str, str]) -> str:
    return ", ".join(f"{name!r} {kind}" for name, kind in [*nodes.items()][:10])


def _batches(lengths: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Parts windows of rising lengths into batches of at most BATCH tokens, or of one window: start and end of each."""
    start = 0
    for i, length in enumerate(lengths):
        if i > start and length * (i + 1 - start) > BATCH:
            yield start, i
            start = i
    if lengths:
        yield start, len(lengths)


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise InputError(f"min_confidence must be 0 to 1, found {value}.")
    return float(value)


def _checked(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise InputError("expected a sequence of texts, found one string; wrap it in a list.")
    return texts


def _clean(text: object, position: int) -> str:
    """The text, with what no UTF-8 file could hold (lone surrogates) replaced by U+FFFD."""
    if not isinstance(text, str):
        raise InputError(f"item {position}: expected a string, found {type(text).__name__}.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _merge(owners: list[int], outputs: Floats, texts: int, task: str) -> Floats:
    """Window logits (windows, labels) to text logits (texts, labels): highest, or mean if single-label."""
    if task == "single_label":
        total, count = np.zeros((texts, outputs.shape[1]), dtype=np.float32), np.zeros((texts, 1), np.float32)
        np.add.at(total, owners, outputs)
        np.add.at(count, owners, 1)
        return np.asarray(total / np.maximum(count, 1), dtype=np.float32)
    merged = np.full((texts, outputs.shape[1]), -np.inf, dtype=np.float32)
    np.maximum.at(merged, owners, outputs)
    return merged
