"""Other libraries read the bundle, or take the classifier for one of theirs (transformers: test_parity.py)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

import communique
from communique import Classifier
from training import corpus


@pytest.fixture(scope="module")
def classifier(exported: Path) -> Classifier:
    return communique.load(exported, precision="fp32")


@pytest.fixture(scope="module")
def texts(tiny_corpus: Path) -> list[str]:
    return corpus.load(tiny_corpus).test.texts


@pytest.mark.parametrize(
    "bundle, precision, tolerance", [("exported", "fp32", 1e-5), ("exported", "int8", 1e-3), ("leaving", "int8", 1e-3)]
)
def test_plain_onnxruntime_reads_the_folder(
    bundle: str, texts: list[str], precision: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    import onnxruntime
    from transformers import AutoTokenizer

    exported = request.getfixturevalue(bundle)
    file = {"fp32": "model.onnx", "int8": "model_quantized.onnx"}[precision]
    session = onnxruntime.InferenceSession(exported / "onnx" / file, providers=["CPUExecutionProvider"])
    tokenizer, ours = AutoTokenizer.from_pretrained(exported), communique.load(exported, precision=precision)
    wanted = [node.name for node in session.get_inputs()]
    for text in texts[:12]:
        encoded = tokenizer([text], return_tensors="np")
        (logits,) = session.run(["logits"], {name: encoded[name].astype(np.int64) for name in wanted})
        expected = 1 / (1 + np.exp(-logits / ours.manifest.temperature))
        assert np.abs(ours.predict_proba([text]) - expected).max() < tolerance


def test_it_ends_a_scikit_learn_pipeline_without_fitting(classifier: Classifier, texts: list[str]) -> None:
    from sklearn.base import is_classifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer
    from sklearn.utils.validation import check_is_fitted

    check_is_fitted(classifier)
    pipe = make_pipeline(FunctionTransformer(lambda given: [text.strip() for text in given]), classifier)
    assert is_classifier(pipe) and tuple(pipe.classes_) == classifier.classes_
    assert (pipe.predict([f" {text} " for text in texts]) == classifier.predict(texts)).all()
    assert (pipe.predict_proba(texts) == classifier.predict_proba(texts)).all()
    assert "Classifier" in repr(pipe) and "Classifier" in pipe._repr_html_()


def test_frozen_it_goes_through_fit_clone_and_cross_validation(
    classifier: Classifier, texts: list[str], tiny_corpus: Path
) -> None:
    from sklearn.base import clone
    from sklearn.frozen import FrozenEstimator
    from sklearn.metrics import f1_score
    from sklearn.model_selection import KFold, cross_validate
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    pipe = make_pipeline(FunctionTransformer(), FrozenEstimator(classifier))
    truth = corpus.load(tiny_corpus).test.truth
    fitted = clone(pipe).fit(texts, truth)
    assert (fitted.predict(texts) == classifier.predict(texts)).all()
    folds = list(KFold(2).split(texts))
    scores = cross_validate(
        pipe, texts, truth, cv=folds, scoring=["f1_macro", "average_precision"], error_score="raise"
    )
    expected = [f1_score(truth[held], fitted.predict([texts[i] for i in held]), average="macro") for _, held in folds]
    assert scores["test_f1_macro"] == pytest.approx(expected)
    assert (scores["test_average_precision"] > 0.5).all()


def test_it_is_not_fitted_again(classifier: Classifier) -> None:
    from sklearn.pipeline import make_pipeline

    with pytest.raises(communique.CommuniqueError, match=r"FrozenEstimator\(classifier\)"):
        make_pipeline(classifier).fit(["a text"], [[0, 0, 0, 0]])


def test_a_pickled_pipeline_answers_the_same(classifier: Classifier, texts: list[str]) -> None:
    from sklearn.frozen import FrozenEstimator
    from sklearn.pipeline import make_pipeline

    pipe = make_pipeline(FrozenEstimator(classifier))
    assert (pickle.loads(pickle.dumps(pipe)).predict(texts) == pipe.predict(texts)).all()
