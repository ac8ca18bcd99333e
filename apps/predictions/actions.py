"""Score comments and keep the record; take feedback."""

import hmac
import time
from collections.abc import Sequence

import numpy as np
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import APIKey
from apps.classifier.labels import LABELS
from apps.predictions import store
from apps.predictions.models import Feedback, Prediction, pack_labels, pack_rows
from apps.registry import serving
from apps.registry.serving import Served


class AlreadyGivenError(Exception):
    """This visitor has said already what they think of this prediction."""


def text_hash(text: str) -> str:
    """Return the text's SHA-256, keyed with the site's secret so that short texts can't be guessed."""
    return hmac.digest(settings.SECRET_KEY.encode(), text.encode("utf-8", "surrogatepass"), "sha256").hex()


def _scores(served: Served, texts: Sequence[str]) -> np.ndarray:
    # A single text skips the batch's set-up.
    return served.scorer.score(texts[0])[None] if len(texts) == 1 else served.scorer.score_many(texts)


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
        texts: the comments, each valid Unicode without NUL.
        external_ids: the platform's ids, in the order of the texts, or none.
        do_not_store: keep the scores but not the text.

    Returns:
        The stored predictions in the order of the texts, and the model that made all of them.

    Raises:
        NoModelError: no model is in service.
    """
    hashes = [text_hash(text) for text in texts]
    served = serving.choose(hashes[0]) if hashes else serving.current()
    start = time.perf_counter()
    try:
        scores = _scores(served, texts)
    except Exception as error:
        served = serving.stand_in(served, error)
        scores = _scores(served, texts)
    latency_us = round((time.perf_counter() - start) * 1e6 / max(len(texts), 1))
    masks = pack_rows(scores >= served.scorer.thresholds)
    client_id = client and client.pk
    now = timezone.now()
    # By position, in the order of the columns: by name, Django takes as long as the scoring.
    predictions = [
        Prediction(  # type: ignore[misc]  # a foreign key's position takes the key
            uuid7(),
            now,
            client_id,
            source.value,
            community,
            external_ids[row] if external_ids else "",
            None if do_not_store else text,
            hashes[row],
            *probabilities,
            mask,
            served.version_id,
            latency_us,
        )
        for row, (text, probabilities, mask) in enumerate(zip(texts, scores.tolist(), masks, strict=True))
    ]
    store.insert(predictions)
    return predictions, served


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
        AlreadyGivenError: the visitor's feedback on this prediction is stored already.
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
        raise AlreadyGivenError from error
    return feedback
