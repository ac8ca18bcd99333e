"""Labels of comments from moderators' decisions and users' feedback, as rows to train on."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, TypedDict

import numpy as np
from django.db.models import Case, CharField, F, Q, QuerySet, Value, When
from django.db.models.functions import Cast, Coalesce
from tqdm import tqdm

from apps.classifier.labels import LABELS
from apps.moderation.models import Decision, Submission
from apps.moderation.statistics import agreement
from apps.predictions.models import ALL_LABELS, Feedback, Prediction, pack_labels, unpack_labels
from apps.training import datasets
from apps.training.jigsaw import ImportReport, LabeledComment
from apps.training.models import Dataset

MODERATOR = "moderator"
FEEDBACK_WEIGHT = 0.5
MIN_SECOND_REVIEWS, MIN_TRUST = 30, 0.1
TOXIC = pack_labels(label == "toxic" for label in LABELS)
_KEY_AND_LABELS = [("key", np.uint64), ("labels", np.int8, len(LABELS))]
LABEL_POLICY = """There is one row for each text. A moderator's decision has precedence over feedback; of the
same kind, the newest counts.
- Decisions: the ticked labels are the labels. An approval without ticks means that no label applies. A
  rejection without ticks does not say which label applies, so the text is left out and counted. Automatic
  and undone decisions and those on examples are not used; second reviews are.
- Feedback and suggested scores: the newest feedback of an API key or visitor on a comment's prediction
  replaces the former. The stated labels are the labels. If toxic is stated to be false, the other
  labels are false too; otherwise the model's labels are used for them. “Right” without labels means the
  model's labels. “Wrong” without labels does not say which label applies, so the text is left out and
  counted.
- A row has weight 1 if it comes from an import or the Perspective API, where scores are suggested by a
  platform's moderators. Other feedback has weight 0.5. A moderator's row has the trust of the label that
  moderators agree on least, of those that apply, or of toxic if none applies. The trust of a label is the
  kappa of its blind second reviews, from 0.1 to 1; it is 1 with fewer than 30 of them.
- Comments that must not be stored are never used.
- A text that, once normalised, is held out from the base is not added. A text in the base's training rows
  replaces the base's row."""


class LabelEvent(TypedDict):
    """A decision or feedback about a stored comment."""

    text_hash: bytes
    text: str
    model_mask: int  # the labels that the model gave
    number: int  # primary key of the decision or feedback
    occurred_at: datetime
    origin: str  # `MODERATOR`, or where the prediction came from
    verdict: str  # a `Decision.Action`, "right" or "wrong"
    stated_mask: int | None  # the labels that are stated to apply
    known_labels: int  # the labels that are stated to apply or not


def read_comments(
    *, base: Dataset | None, since: datetime | None, report: ImportReport, counts: Counter[str]
) -> Iterator[LabeledComment]:
    """Yield a row for each text with a decision or feedback, then the rows of the base; none without events.

    `LABEL_POLICY` says which event counts. A row's id is its origin (`moderator`, or where the prediction
    came from: `api`, `page`, `perspective`) and the number of the decision or feedback. Equal records give
    equal rows in equal order. The function keeps 14 bytes for each row of the base and a number for each new
    text in memory.

    Args:
        report: receives the events that are left out.
        counts: receives the number of rows of each origin.

    Raises:
        SourceError: the base's file is missing or damaged.
    """
    base_rows = np.fromiter(_keys_and_labels(base), _KEY_AND_LABELS)
    held_out = np.zeros(len(base_rows), bool)
    if base:
        held_out[datasets.split_keys(base_rows["key"], base_rows["labels"])[1]] = True
    held_out_keys = set(base_rows["key"][held_out].tolist())
    new_keys: set[int] = set()
    trust = label_trust()
    for event in latest_per_text(since):
        mask = resolve_labels(event)
        key = datasets.text_key(event["text"])
        if mask is None and event["origin"] == MODERATOR:
            report.add("rejected without a label")
        elif mask is None:
            report.add("feedback “wrong” without labels")
        elif key in held_out_keys:
            report.add(f"held out from {base} for evaluation")
        else:
            new_keys.add(key)
            counts[event["origin"]] += 1
            yield _to_comment(event, mask, None if base is None else False, trust)
    if base is None or not new_keys:
        return
    for row, key, is_held_out in zip(datasets.stream(base.path), base_rows["key"], held_out, strict=True):
        if int(key) in new_keys:
            report.add(f"in {base}, replaced by a newer label")
        else:
            counts[str(base)] += 1
            yield row._replace(held_out=bool(is_held_out))


def _keys_and_labels(base: Dataset | None) -> Iterator[tuple[int, tuple[int, ...]]]:
    if base:
        for row in datasets.stream(base.path):
            yield datasets.text_key(row.text), row.labels


def _to_comment(
    event: LabelEvent, mask: int, held_out: bool | None, trust: dict[str, float]
) -> LabeledComment:
    flags = unpack_labels(mask)
    if event["origin"] == MODERATOR:
        weight = min((trust[label] for label, applies in flags.items() if applies), default=trust["toxic"])
    else:
        weight = 1.0 if event["origin"] == Prediction.Source.PERSPECTIVE else FEEDBACK_WEIGHT
    labels = tuple(map(int, flags.values()))
    return LabeledComment(f"{event['origin']}-{event['number']}", event["text"], labels, held_out, weight)


def label_trust() -> dict[str, float]:
    """Return how much one moderator's judgement of each label counts in training.

    If two moderators err independently with the noise rate r, and a label applies to half of the comments,
    kappa is (1 - 2r)². This is the factor by which noise reduces what a label says about the parameters of a
    model, see Natarajan et al., "Learning with noisy labels", NeurIPS 2013.
    """
    by_label, _ = agreement()
    return {
        label: 1.0
        if agreed.kappa is None or agreed.count < MIN_SECOND_REVIEWS
        else round(min(max(agreed.kappa, MIN_TRUST), 1.0), 2)
        for label, agreed in by_label.items()
    }


def resolve_labels(event: LabelEvent) -> int | None:
    """Return the labels that apply after an event, as bits, or None if the event does not say."""
    match event["verdict"], event["stated_mask"]:
        case Decision.Action.APPROVE, None:
            return 0
        case Decision.Action.REJECT, None:
            return None
        case "right", None:
            return event["model_mask"]
        case "wrong", None:
            return None
    stated, known = event["stated_mask"] or 0, event["known_labels"]
    if known & TOXIC & ~stated:
        return stated & known
    return stated & known | event["model_mask"] & ~known


def label_events(since: datetime | None, *, labeled: bool = False) -> QuerySet[Any, dict[str, Any]]:
    """Return the decisions and feedback about stored comments as `LabelEvent`, sorted by text.

    Args:
        labeled: leave out rejections and wrong predictions without labels.
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
        Feedback.objects.effective()
        .filter(after, prediction__text__isnull=False)
        # Suggested scores of unsupported attributes only.
        .exclude(known_mask=0)
        .exclude(prediction__in=Submission.objects.filter(is_example=True).values("pk"))
    )
    if labeled:
        feedback = feedback.exclude(is_right=False, true_mask=None)
    return (
        decisions.order_by()
        .values(
            **_prediction_fields("submission__prediction"),
            origin=Value(MODERATOR, CharField()),
            verdict=F("action"),
            stated_mask=F("corrected_mask"),
            known_labels=Value(ALL_LABELS),
        )
        .union(
            feedback.order_by().values(
                **_prediction_fields("prediction"),
                origin=Cast("prediction__source", CharField()),
                verdict=Case(When(is_right=True, then=Value("right")), default=Value("wrong")),
                stated_mask=F("true_mask"),
                known_labels=Coalesce("known_mask", ALL_LABELS),
            ),
            all=True,
        )
        .order_by("text_hash")
    )


def _prediction_fields(prediction: str) -> dict[str, F]:
    return {
        "text_hash": F(f"{prediction}__text_hash"),
        "text": F(f"{prediction}__text"),
        "model_mask": F(f"{prediction}__label_mask"),
        "number": F("pk"),
        "occurred_at": F("created_at"),
    }


def latest_per_text(since: datetime | None) -> Iterator[Any]:
    """Yield the event that counts for each text, see `LABEL_POLICY`."""
    events = label_events(since)
    bar = tqdm(events.iterator(), "Reading labels", events.count(), unit="event", disable=None)
    for _, of_text in groupby(bar, key=itemgetter("text_hash")):
        yield max(
            of_text,
            key=lambda event: (event["origin"] == MODERATOR, event["occurred_at"], event["number"]),
        )
