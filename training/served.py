"""The registered model as MLflow runs it: a bundle behind `predict`. No part of the pipeline imports this file.

It is "models from code": MLflow copies it beside the bundle and runs it where the model is loaded, so that nothing is
pickled. It needs the runtime, MLflow and pandas; no torch. See `training.registry.save`.
"""

from __future__ import annotations

from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pandas import DataFrame

import communique


class Served(PythonModel):  # type: ignore[misc]
    """The classifier of the bundle that the model carries."""

    def load_context(self, context: PythonModelContext) -> None:
        """Loads the bundle; its hashes are checked. The model's config has the options of `communique.load`."""
        self._classifier = communique.load(context.artifacts["bundle"], **context.model_config)

    # MLflow turns a string, a list and a Series into a DataFrame before they come here.
    def predict(self, context: PythonModelContext, model_input: DataFrame) -> list[dict[str, Any]]:
        """One answer a row: intents, the probability of every label, confidence.

        Args:
            context: as MLflow gives it.
            model_input: texts in the first column.

        Raises:
            MlflowException: something in it is not a string; a server answers 400.
        """
        texts = model_input.iloc[:, 0].tolist()
        for row, text in enumerate(texts):
            if not isinstance(text, str):
                raise MlflowException.invalid_parameter_value(
                    f"row {row}: expected a string, found {_name(text)}. Leave out rows without a text, and turn "
                    "numbers into strings."
                )
        return [
            {
                "intents": list(statement.intents),
                "probabilities": statement.probabilities,
                "confidence": statement.confidence,
            }
            for statement in self._classifier(texts)
        ]


def _name(value: object) -> str:
    missing = value is None or value != value  # pandas has NaN for None
    return "no value (None or NaN)" if missing else f"{value!r} ({type(value).__name__})"


set_model(Served())  # what MLflow asks of such a file; it does nothing elsewhere
