"""Adds to a Spark table what each text of one column does, with the model as MLflow holds it.

python examples/spark.py statements.jsonl text labelled.parquet [--model models:/communique@champion] [--precision fp32]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlflow.pyfunc
from mlflow.exceptions import MlflowException
from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql.functions import coalesce, col, count, explode, lit, when

READERS = {
    ".csv": ("csv", {"header": True, "multiLine": True, "escape": '"'}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
}


def with_intents(frame: DataFrame, column: str, predict: Callable[[Column], Column]) -> DataFrame:
    """`frame` with the columns `intents`, `p_<label>` and `confidence`, null where the text is null."""
    # the model refuses a null, and Spark calls it for every row, whatever `when` says
    text = col(f"`{column}`")
    answer = when(text.isNotNull(), predict(coalesce(text, lit(""))))
    answered = frame.withColumn("_answer", answer)
    labels = answered.select("_answer.probabilities.*").columns
    probabilities = [col(f"_answer.probabilities.`{label}`").alias(f"p_{label}") for label in labels]
    return answered.select("*", "_answer.intents", *probabilities, "_answer.confidence").drop("_answer")


def main() -> int:
    """Reads a table, writes it with the new columns as Parquet, and prints how often each intent is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help=f"a file or folder that ends in {', '.join(READERS)}")
    parser.add_argument("column")
    parser.add_argument("output", help="a folder that is not there yet")
    parser.add_argument("--model", default="models:/communique@champion", help="in MLflow's words, or a folder")
    parser.add_argument("--threads", type=int, default=1, help="of each of Spark's tasks")
    parser.add_argument("--precision", help="int8 or fp32; default: what the bundle recommends")
    asked = parser.parse_args()
    if asked.source.suffix not in READERS:
        print(f"{asked.source}: expected a name that ends in {', '.join(READERS)}", file=sys.stderr)
        return 2
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # Spark would take the first python3 on the path
    spark = SparkSession.builder.appName("communique").config("spark.ui.showConsoleProgress", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    try:
        form, options = READERS[asked.source.suffix]
        frame = spark.read.load(str(asked.source), format=form, **options)
        if asked.column not in frame.columns:
            print(f"no column {asked.column!r}; found {', '.join(frame.columns)}", file=sys.stderr)
            return 2
        predict = mlflow.pyfunc.spark_udf(
            spark,
            asked.model,
            env_manager="local",
            model_config={"threads": asked.threads, "precision": asked.precision},
        )
        frame = frame.repartition(spark.sparkContext.defaultParallelism)  # a small file is one part, and one task
        start = time.perf_counter()
        with_intents(frame, asked.column, predict).write.parquet(asked.output)
        seconds = time.perf_counter() - start
        labelled = spark.read.parquet(asked.output)
        rows = labelled.count()
        print(f"{rows:,} rows in {seconds:.1f} s, {rows / seconds:,.0f} a second, the start of Python included")
        for intent, number in labelled.select(explode("intents")).groupBy("col").agg(count("*")).sort("col").collect():
            print(f"{intent:<12} {number:,}")
    except (MlflowException, PySparkException) as error:
        print(str(error).strip().splitlines()[0], file=sys.stderr)
        return 2
    finally:
        spark.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
