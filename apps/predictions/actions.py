"""Score comments and keep the record; take feedback."""

import hmac
import time
from collections.abc import Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import APIKey
from apps.classifier.labels import LABELS
from apps.core.batches import map_batch, map_groups, map_isolated
from apps.predictions import store
from apps.predictions.exceptions import FeedbackExistsError
from apps.predictions.models import Feedback, Prediction, Row, pack_labels, pack_rows
from apps.registry import serving
from apps.registry.serving import Served


def text_hash(text: str) -> str:
    """Return the text's SHA-256, keyed with the site's secret so that short texts can't be guessed."""
    return hmac.digest(settings.SECRET_KEY.encode(), text.encode("utf-8", "surrogatepass"), "sha256").hex()


class Comment(NamedTuple):
    """A comment to score, and what is stored with it."""

    text: str
    client: APIKey | None = None
    community: str = ""
    external_id: str = ""  # the platform's own
    do_not_store: bool = False  # keep the scores but not the text


BatchResult = tuple[list[Row], Served]  # the model that made all rows


def _scores(served: Served, texts: Sequence[str]) -> np.ndarray:
    # A single text skips the batch's set-up.
    return served.scorer.score(texts[0])[None] if len(texts) == 1 else served.scorer.score_many(texts)


def _scored(
    served: Served, comments: Sequence[Comment], hashes: Sequence[str], source: Prediction.Source
) -> BatchResult:
    """Return rows, not stored yet, and what made them: the champion where `served` fails."""
    texts = [comment.text for comment in comments]
    start = time.perf_counter()
    try:
        scores = _scores(served, texts)
    except Exception as error:
        served = serving.stand_in(served, error)
        scores = _scores(served, texts)
    latency_us = round((time.perf_counter() - start) * 1e6 / len(texts))
    masks = pack_rows(scores >= served.scorer.thresholds)
    now = timezone.now()
    name = source.value
    rows = [
        Row._make(
            (
                uuid7(),
                now,
                client and client.pk,
                name,
                community,
                external_id,
                None if do_not_store else text,
                text_hash,
                *probabilities,
                mask,
                served.version_id,
                latency_us,
            )
        )
        for (text, client, community, external_id, do_not_store), text_hash, probabilities, mask in zip(
            comments, hashes, scores.tolist(), masks, strict=True
        )
    ]
    return rows, served


def score(
    *,
    texts: Sequence[str],
    source: Prediction.Source,
    client: APIKey | None = None,
    community: str = "",
    external_ids: Sequence[str] = (),
    do_not_store: bool = False,
) -> tuple[list[Prediction], Served]:
    """Score comments and store each prediction, in one insert, before returning.

    The champion scores; while a canary runs, it does so for its share of requests, chosen by the first text.

    Args:
        texts: the comments, one at least, each valid Unicode without NUL.
        external_ids: the platform's ids, in the order of the texts, or none.
        do_not_store: keep the scores but not the text.

    Returns:
        The stored predictions in the order of the texts, and the model that made all of them.

    Raises:
        NoModelError: no model is in service.
    """
    ids = external_ids or [""] * len(texts)
    comments = [
        Comment(text, client, community, external_id, do_not_store)
        for text, external_id in zip(texts, ids, strict=True)
    ]
    (result,) = score_batches(batches=[comments], source=source)
    if isinstance(result, Exception):
        raise result
    rows, served = result
    return [Prediction.of(row) for row in rows], served


def score_batches(
    *, batches: Sequence[Sequence[Comment]], source: Prediction.Source
) -> list[BatchResult | Exception]:
    """Score and store independent batches of comments together, each as `score` would.

    Returns:
        `results[i]` has the stored rows of `batches[i]` and the model that made all of them, or is the
        exception that prevented storing them.

    Raises:
        NoModelError: no model is in service.
    """
    hashed = [(comments, [text_hash(comment.text) for comment in comments]) for comments in batches]
    scored = map_groups(
        lambda batch: serving.choose(batch[1][0]),
        lambda served, group: map_isolated(
            partial(_score_batches, served, source), group, retry=lambda error: len(group) > 1
        ),
        hashed,
    )
    return map_batch(_store, scored)


def _score_batches(
    served: Served, source: Prediction.Source, batches: Sequence[tuple[Sequence[Comment], Sequence[str]]]
) -> list[BatchResult]:
    """Return the rows of each batch of comments and their hashes, all scored together."""
    comments = [comment for comments, _ in batches for comment in comments]
    hashes = [text_hash for _, hashes in batches for text_hash in hashes]
    rows, served = _scored(served, comments, hashes, source)
    remaining = iter(rows)
    return [(list(islice(remaining, len(comments))), served) for comments, _ in batches]


def _store(results: Sequence[BatchResult]) -> list[BatchResult | Exception]:
    errors = store.insert_batches([rows for rows, _ in results])
    return [error or result for result, error in zip(results, errors, strict=True)]


def give_feedback(
    *,
    prediction: Prediction,
    is_right: bool,
    true_labels: Sequence[str] | None = None,
    known_labels: Sequence[str] | None = None,
    remark: str = "",
    client: APIKey | None = None,
    visitor: str = "",
) -> Feedback:
    """Store what somebody said of a prediction.

    Args:
        true_labels: the labels that are true, an empty list for none, or None where it was not said.
        known_labels: the labels that `true_labels` speaks of, where it leaves others open; by default all.
        visitor: on the web pages, a word that is the same when the same visitor comes back to this result.

    Raises:
        FeedbackExistsError: the visitor's feedback on this prediction is stored already.
    """
    feedback = Feedback(
        prediction=prediction,
        client=client,
        is_right=is_right,
        true_mask=None if true_labels is None else pack_labels(label in true_labels for label in LABELS),
        known_mask=None if known_labels is None else pack_labels(label in known_labels for label in LABELS),
        remark=remark,
        visitor=visitor,
    )
    try:
        with transaction.atomic():
            feedback.save(force_insert=True)
    except IntegrityError as error:
        if not visitor:
            raise
        raise FeedbackExistsError("This visitor has given feedback on this prediction already.") from error
    return feedback
