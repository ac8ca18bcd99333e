"""A corpus that outgrows one machine: the registered model scores it on Spark."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer
from apps.registry import tracking
from apps.registry.models import ModelVersion

pytestmark = [pytest.mark.django_db, pytest.mark.filterwarnings("ignore")]

ROWS = 20_000
SCORE = """
import json, sys
import mlflow.pyfunc
from pyspark.sql import SparkSession
from pyspark.sql.functions import col, struct

spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", False).getOrCreate()
schema = ", ".join(f"{label} double" for label in sys.argv[4:])
scores = mlflow.pyfunc.spark_udf(spark, sys.argv[1], env_manager="local", result_type=schema)
rows = spark.read.json(sys.argv[2]).repartition(8)
rows.withColumn("scores", scores(struct(col("text")))).select("number", "scores.*").write.json(sys.argv[3])
spark.stop()
"""


@pytest.mark.skipif(not shutil.which("java"), reason="Spark needs Java, and there is no java on the path")
def test_spark_scores_equal_the_sites(champion: ModelVersion, settings: Any, tmp_path: Path) -> None:
    settings.MLFLOW_TRACKING_URI = f"sqlite:///{tmp_path / 'mlflow.sqlite3'}"
    settings.MLFLOW_ARTIFACTS = str(tmp_path / "artifacts")
    tracking.sync()
    texts = [
        f"Comment {number}: {'you idiot' if number % 3 else 'thank you'} \U0001f595" for number in range(ROWS)
    ]
    lines = (json.dumps({"number": number, "text": text}) for number, text in enumerate(texts))
    (tmp_path / "comments.json").write_text("\n".join(lines))
    subprocess.run(
        [sys.executable, "-c", SCORE, "models:/toxicmod@champion", "comments.json", "scores", *LABELS],
        cwd=tmp_path,
        env=os.environ
        | {"MLFLOW_TRACKING_URI": settings.MLFLOW_TRACKING_URI, "PYSPARK_PYTHON": sys.executable},
        check=True,
    )
    parts = list((tmp_path / "scores").glob("part-*.json"))
    assert len(parts) > 1
    rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    scores = np.array(
        [[row[label] for label in LABELS] for row in sorted(rows, key=lambda row: row["number"])]
    )
    assert np.allclose(scores, Scorer.load(champion.modelartifact.artifact()).score_many(texts), atol=1e-12)
