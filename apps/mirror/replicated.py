"""The models whose rows are copied to DynamoDB."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import models

from apps.moderation.models import Decision
from apps.predictions.models import Feedback, Prediction

CHUNK_SIZE = 200


@dataclass(frozen=True)
class ReplicatedModel:
    """A model with append-only rows and the columns `id` and `created_at`.

    Attributes:
        kind: the name of its records in the change log and in DynamoDB.
        prediction_column: the column that contains the prediction's id.
        text_path: the look-up of the comment's text, which is null if the text must not be stored.
        free_text_fields: columns of text about the comment, left out if the comment must not be stored.
    """

    kind: str
    model: type[models.Model]
    prediction_column: str
    text_path: str
    free_text_fields: tuple[str, ...] = ()

    def rows(self, **filters: Any) -> Iterator[dict[str, Any]]:
        """Yield the columns of the rows that match the filters, ordered by time."""
        columns = [field.attname for field in self.model._meta.concrete_fields]
        rows = self.model._default_manager.filter(**filters).order_by("created_at", "pk")
        for row in rows.values(*columns, comment_text=models.F(self.text_path)).iterator(CHUNK_SIZE):
            if row.pop("comment_text") is None:
                row |= dict.fromkeys(self.free_text_fields, "")
            yield row


PREDICTIONS = ReplicatedModel("prediction", Prediction, "id", "text")
FEEDBACK = ReplicatedModel("feedback", Feedback, "prediction_id", "prediction__text", ("remark",))
DECISIONS = ReplicatedModel("decision", Decision, "submission_id", "submission__prediction__text", ("note",))
REPLICATED_MODELS = (PREDICTIONS, FEEDBACK, DECISIONS)
