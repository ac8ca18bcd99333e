"""Score and store comments, and store feedback. The APIs, the pages and moderation call them."""

import hmac
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import APIKey
from apps.classifier.labels import LABELS
from apps.core.batches import map_batch, map_groups, map_isolated
from apps.core.database import lock_until_commit
from apps.predictions import bulk_insert
from apps.predictions.models import Feedback, Prediction, PredictionRow, pack_label_rows, pack_labels
from apps.registry import serving
from apps.registry.serving import LoadedModel


def text_hash(text: str) -> str:
    """Return an HMAC-SHA-256 of the text with the site's secret, so that short texts can't be guessed."""
    return hmac.digest(settings.SECRET_KEY.encode(), text.encode("utf-8", "surrogatepass"), "sha256").hex()


class Comment(NamedTuple):
    """A comment to score, and what is stored with it.

    Attributes:
        external_id: the comment's ID on the platform.
        do_not_store: store the scores but not the text.
        model: the model that scores it; None for the one in service.
    """

    text: str
    api_key: APIKey | None = None
    community: str = ""
    external_id: str = ""
    do_not_store: bool = False
    model: LoadedModel | None = None


class BatchResult(NamedTuple):
    """The stored rows of a batch of comments, in their order, and the model that scored all of them."""

    rows: list[PredictionRow]
    model: LoadedModel


def _build_rows(
    model: LoadedModel, comments: Sequence[Comment], hashes: Sequence[str], source: Prediction.Source
) -> BatchResult:
    """Score comments with a model, or with the champion if that fails; return the rows to store."""
    texts = [comment.text for comment in comments]
    start = time.perf_counter()
    try:
        scores = model.scorer.rate(texts)
    except Exception as error:
        model = serving.fall_back_to_champion(model, error)
        scores = model.scorer.rate(texts)
    latency_us = round((time.perf_counter() - start) * 1e6 / len(texts))
    masks = pack_label_rows(scores.probabilities >= model.scorer.thresholds)
    now = timezone.now()
    source_name = source.value
    # The values are in the order of the columns. Naming them would take a tenth of the time of a large batch.
    rows = [
        PredictionRow._make(
            (
                uuid7(),
                now,
                comment.api_key.pk if comment.api_key else None,
                source_name,
                comment.community,
                comment.external_id,
                None if comment.do_not_store else comment.text,
                text_hash,
                *probabilities,
                mask,
                model.version_id,
                latency_us,
                was_read,
            )
        )
        for comment, text_hash, probabilities, mask, was_read in zip(
            comments,
            hashes,
            scores.probabilities.tolist(),
            masks,
            scores.was_read.tolist(),
            strict=True,
        )
    ]
    return BatchResult(rows, model)


def score(
    *,
    texts: Sequence[str],
    source: Prediction.Source,
    api_key: APIKey | None = None,
    community: str = "",
    external_ids: Sequence[str] = (),
    do_not_store: bool = False,
) -> tuple[list[Prediction], LoadedModel]:
    """Score comments and store the predictions in one insert, which is committed before the return.

    The champion scores them, or the canary if it serves the hash of the first text.

    Args:
        texts: at least one comment; each is valid Unicode without NUL.
        external_ids: the comments' IDs on the platform, in the order of the texts, or none.
        do_not_store: store the scores but not the text.

    Returns:
        The stored predictions in the order of the texts, and the model that scored all of them.

    Raises:
        NoModelError: no model is in service.
    """
    ids = external_ids or [""] * len(texts)
    comments = [
        Comment(text, api_key, community, external_id, do_not_store)
        for text, external_id in zip(texts, ids, strict=True)
    ]
    (result,) = score_batches(batches=[comments], source=source)
    if isinstance(result, Exception):
        raise result
    return [Prediction.from_row(row) for row in result.rows], result.model


def score_batches(
    *, batches: Sequence[Sequence[Comment]], source: Prediction.Source
) -> list[BatchResult | Exception]:
    """Score and store independent batches of comments together, each as `score` would.

    Returns:
        `results[i]` is the result of `batches[i]`, or the exception that prevented storing it.

    Raises:
        NoModelError: no model is in service.
    """
    hashed = [(comments, [text_hash(comment.text) for comment in comments]) for comments in batches]
    scored = map_groups(
        lambda batch: batch[0][0].model or serving.route(batch[1][0]),
        lambda model, group: map_isolated(
            partial(_score_batches, model, source), group, retry=lambda error: len(group) > 1
        ),
        hashed,
    )
    return map_batch(_store, scored)


def _score_batches(
    model: LoadedModel,
    source: Prediction.Source,
    batches: Sequence[tuple[Sequence[Comment], Sequence[str]]],
) -> list[BatchResult]:
    """Return the rows of each batch of comments and their hashes, all scored together."""
    comments = [comment for comments, _ in batches for comment in comments]
    hashes = [text_hash for _, hashes in batches for text_hash in hashes]
    rows, model = _build_rows(model, comments, hashes, source)
    remaining = iter(rows)
    return [BatchResult(list(islice(remaining, len(comments))), model) for comments, _ in batches]


def _store(results: Sequence[BatchResult]) -> list[BatchResult | Exception]:
    errors = bulk_insert.insert_batches([result.rows for result in results])
    return [error or result for result, error in zip(results, errors, strict=True)]


@transaction.atomic
def give_feedback(
    *,
    prediction: Prediction,
    is_right: bool,
    true_labels: Sequence[str] | None = None,
    known_labels: Sequence[str] | None = None,
    remark: str = "",
    api_key: APIKey | None = None,
    visitor: str = "",
) -> Feedback:
    """Store feedback on a prediction, unless it repeats the newest feedback of its source, see `Feedback`.

    Args:
        true_labels: the labels that apply, or None if they are not stated.
        known_labels: the labels about which `true_labels` is a statement, by default all six.
        visitor: a random ID for this visitor and prediction, for feedback on the web pages.

    Returns:
        The stored feedback, or that which it repeats.
    """
    statement = {
        "is_right": is_right,
        "true_mask": None if true_labels is None else pack_labels(label in true_labels for label in LABELS),
        "known_mask": None
        if known_labels is None
        else pack_labels(label in known_labels for label in LABELS),
        "remark": remark,
    }
    lock_until_commit(("feedback", str(prediction.pk), visitor))
    newest = Feedback.objects.filter(prediction=prediction, visitor=visitor).order_by("-pk").first()
    if newest and all(getattr(newest, name) == value for name, value in statement.items()):
        return newest
    return Feedback.objects.create(prediction=prediction, api_key=api_key, visitor=visitor, **statement)
