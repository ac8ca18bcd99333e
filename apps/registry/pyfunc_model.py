"""The registered model as MLflow loads it: this file, the classifier package beside it, and the artifact.

`mlflow models serve`, Spark workers and notebooks run it without the rest of the project.
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
    """The classifier as an MLflow model: a table of comments in, a table of probabilities out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the artifact.

        Raises:
            ArtifactError: the artifact is not the one that was registered.
        """
        artifact = Artifact.read(Path(context.artifacts["model"]))
        self.scorer = Scorer.load(artifact, expected_sha256=context.model_config["sha256"])

    def predict(
        self, context: PythonModelContext, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """Return the probabilities of the six labels for each row of the column `text`, in the same order.

        A missing text is scored as an empty text.
        """
        texts = model_input["text"].fillna("").astype(str).tolist()
        return pd.DataFrame(self.scorer.score_many(texts), columns=list(LABELS), index=model_input.index)


set_model(ToxicityModel())
