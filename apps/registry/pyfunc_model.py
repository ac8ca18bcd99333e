"""The registered model as MLflow loads it: this file, the classifier package beside it, and the artifact.

It runs where nothing else of the project is: `mlflow models serve`, a Spark worker, a notebook.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from apps.classifier.artifact import Artifact
from apps.classifier.labels import LABELS
from apps.classifier.scorer import Scorer


class ToxicityModel(PythonModel):
    """A DataFrame with the column `text` in, one with six probabilities out, in the order of the rows."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artifact; raises ArtifactError when it isn't the one that was registered."""
        artifact = Artifact.read(Path(context.artifacts["model"]))
        self.scorer = Scorer.load(artifact, expected_sha256=context.model_config["sha256"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Score the comments; a missing one is scored as an empty one."""
        texts = model_input["text"].fillna("").astype(str).tolist()
        return pd.DataFrame(self.scorer.score_many(texts), columns=list(LABELS), index=model_input.index)


set_model(ToxicityModel())
