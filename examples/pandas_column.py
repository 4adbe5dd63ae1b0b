"""Adds to a table what each text of one column does.

python examples/pandas_column.py statements.csv text labelled.csv [--bundle bundles/model]
"""

from __future__ import annotations

import argparse
import sys

import pandas

import communique


def with_intents(frame: pandas.DataFrame, column: str, classifier: communique.Classifier) -> pandas.DataFrame:
    """A copy of `frame` with the columns `intents` and `p_<label>`, empty where the text is missing."""
    present = frame[column].notna().to_numpy()  # by position: an index may hold a value twice
    statements = classifier(frame.loc[present, column])
    columns = {f"p_{label}": float("nan") for label in classifier.classes_}
    labelled = frame.assign(intents=pandas.Series(dtype="str"), **columns)
    labelled.loc[present, "intents"] = [" ".join(statement.intents) for statement in statements]
    for label in classifier.classes_:
        labelled.loc[present, f"p_{label}"] = [statement.probabilities[label] for statement in statements]
    return labelled


def main() -> int:
    """Reads a CSV file, writes it with the new columns, and prints how often each intent is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("column")
    parser.add_argument("output")
    parser.add_argument("--bundle", help="a bundle's folder; default: the model in the installed wheel")
    asked = parser.parse_args()
    try:
        frame = pandas.read_csv(asked.source)
        if asked.column not in frame:
            raise communique.CommuniqueError(f"no column {asked.column!r}; found {', '.join(map(str, frame))}")
        labelled = with_intents(frame, asked.column, communique.load(asked.bundle))
    except (communique.CommuniqueError, OSError, ValueError) as error:  # pandas' own are ValueErrors
        print(error, file=sys.stderr)
        return 2
    labelled.to_csv(asked.output, index=False)
    print(labelled["intents"].str.split().explode().value_counts().to_string())
    return 0


if __name__ == "__main__":
    sys.exit(main())
