"""Labels from life: what moderators and users said of comments, as rows to learn from."""

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
from django.db.models import Case, CharField, F, Q, QuerySet, Value, When
from django.db.models.functions import Cast, Coalesce
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.moderation.models import Decision, Submission
from apps.predictions.models import ALL_LABELS, Feedback, Prediction, pack_labels, unpack_labels
from apps.training import datasets
from apps.training.jigsaw import Problems, Row
from apps.training.models import Dataset

MODERATOR = "moderator"
FEEDBACK_WEIGHT = 0.5
TOXIC = pack_labels(label == "toxic" for label in LABELS)
KEYED = [("key", np.uint64), ("labels", np.int8, len(LABELS))]
RULE = """One row for each text: a moderator's decision beats feedback, the newest of the same kind wins.
- A moderator: the ticked labels; without them an approval means none of the six. A rejection without
  ticked labels doesn't say which are true: the text is left out, and counted. Automatic, undone and
  example decisions don't count; second reviews do.
- Feedback and suggested scores: the labels that were said. Of the others, none if toxic was said to be
  false, else what the model said. “Right” without labels: the model's labels. “Wrong” without labels
  says too little: the text is left out, and counted.
- A moderator's row counts 1, as an imported one does, and so does a score suggested through the Perspective
  API, for that is what a platform's moderators did; a row of other feedback counts half.
- Comments that were not to be stored are never used.
- A text that, once normalised, is held out from the base is not added; one that the base would learn
  from replaces the base's row."""


def rows(
    *, base: Dataset | None, since: datetime | None, problems: Problems, counts: Counter[str]
) -> Iterator[Row]:
    """Yield a row for each text that somebody judged, then those of the base; none if nobody judged any.

    The rule is `RULE`. A row's id is its origin (`moderator`, or where the prediction came from: `api`,
    `page`, `perspective`) and the number of the decision or feedback. Equal records give equal rows in equal
    order. In memory are 14 bytes for each row of the base and one number for each text that was judged.

    Args:
        problems: what was left out is counted here.
        counts: the rows of each origin are counted here.

    Raises:
        SourceError: the base's file is missing or damaged.
    """
    keyed = np.fromiter(_keyed(base), KEYED)
    held_out = np.zeros(len(keyed), bool)
    if base:
        held_out[datasets.split_keys(keyed["key"], keyed["labels"])[1]] = True
    frozen = set(keyed["key"][held_out].tolist())
    judged: set[int] = set()
    for said in _winners(since):
        mask = true_mask(said)
        key = datasets.text_key(said["comment"])
        if mask is None and said["origin"] == MODERATOR:
            problems.add("rejected by a moderator who ticked no label")
        elif mask is None:
            problems.add("said to be wrong, but not what is right")
        elif key in frozen:
            problems.add(f"held out from {base} to evaluate on")
        else:
            judged.add(key)
            counts[said["origin"]] += 1
            yield _row(said, mask, None if base is None else False)
    if base is None or not judged:
        return
    for row, key, is_held_out in zip(datasets.stream(base.path), keyed["key"], held_out, strict=True):
        if int(key) in judged:
            problems.add(f"in {base}, but judged here")
        else:
            counts[str(base)] += 1
            yield row._replace(held_out=bool(is_held_out))


def _keyed(base: Dataset | None) -> Iterator[tuple[int, tuple[int, ...]]]:
    if base:
        for row in datasets.stream(base.path):
            yield datasets.text_key(row.text), row.labels


def _row(said: Mapping[str, Any], mask: int, held_out: bool | None) -> Row:
    labels = tuple(int(flag) for flag in unpack_labels(mask).values())
    weight = 1.0 if said["origin"] in (MODERATOR, Prediction.Source.PERSPECTIVE) else FEEDBACK_WEIGHT
    return Row(f"{said['origin']}-{said['number']}", said["comment"], labels, held_out, weight)


def true_mask(said: Mapping[str, Any]) -> int | None:
    """Return the labels that a statement of `statements` makes true, as bits, or None if it doesn't tell."""
    match said["verdict"], said["said_true"]:
        case Decision.Action.APPROVE, None:
            return 0
        case Decision.Action.REJECT, None:
            return None
        case "right", None:
            return said["by_model"]
        case "wrong", None:
            return None
    true, known = said["said_true"], said["spoken_of"]
    if known & TOXIC & ~true:
        return true & known
    return true & known | said["by_model"] & ~known


def statements(since: datetime | None, *, labeled: bool = False) -> QuerySet[Any, dict[str, Any]]:
    """Return what was said of stored comments, by text: one query, sorted by the database.

    Args:
        labeled: leave out rejections without ticked labels, which teach nothing.
    """
    after = Q(created_at__gte=since) if since else Q()
    decisions = (
        Decision.objects.human()
        .effective()
        .filter(
            after,
            action__in=(Decision.Action.APPROVE, Decision.Action.REJECT),
            submission__is_example=False,
            submission__prediction__text__isnull=False,
        )
    )
    if labeled:
        decisions = decisions.exclude(action=Decision.Action.REJECT, corrected_mask=None)
    feedback = (
        Feedback.objects.filter(after, prediction__text__isnull=False)
        # Suggested scores of attributes that are none of ours say nothing.
        .exclude(known_mask=0)
        .exclude(prediction__in=Submission.objects.filter(is_example=True).values("pk"))
    )
    return (
        decisions.order_by()
        .values(
            **_of("submission__prediction"),
            origin=Value(MODERATOR, CharField()),
            verdict=F("action"),
            said_true=F("corrected_mask"),
            spoken_of=Value(ALL_LABELS),
        )
        .union(
            feedback.order_by().values(
                **_of("prediction"),
                origin=Cast("prediction__source", CharField()),
                verdict=Case(When(is_right=True, then=Value("right")), default=Value("wrong")),
                said_true=F("true_mask"),
                spoken_of=Coalesce("known_mask", ALL_LABELS),
            ),
            all=True,
        )
        .order_by("digest")
    )


def _of(prediction: str) -> dict[str, F]:
    return {
        "digest": F(f"{prediction}__text_hash"),
        "comment": F(f"{prediction}__text"),
        "by_model": F(f"{prediction}__label_mask"),
        "number": F("pk"),
        "said_at": F("created_at"),
    }


def _winners(since: datetime | None) -> Iterator[dict[str, Any]]:
    """Yield the statement that counts for each text."""
    found = statements(since)
    bar = tqdm(found.iterator(), "Reading what was said", found.count(), unit="statement", disable=None)
    for _, said in groupby(bar, key=itemgetter("digest")):
        yield max(said, key=lambda each: (each["origin"] == MODERATOR, each["said_at"], each["number"]))
