"""Score comments and keep the record; take feedback."""

import hmac
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import islice
from typing import NamedTuple

import numpy as np
from django.conf import settings
from django.db import IntegrityError, transaction
from django.utils import timezone
from uuid_utils.compat import uuid7

from apps.accounts.models import APIKey
from apps.classifier.labels import LABELS
from apps.predictions import store
from apps.predictions.exceptions import FeedbackExistsError
from apps.predictions.models import Feedback, Prediction, Row, pack_labels, pack_rows
from apps.registry import serving
from apps.registry.serving import Served


def text_hash(text: str) -> str:
    """Return the text's SHA-256, keyed with the site's secret so that short texts can't be guessed."""
    return text_hashes([text])[0]


def text_hashes(texts: Iterable[str]) -> list[str]:
    """Return each text's `text_hash`."""
    keyed = _keyed(settings.SECRET_KEY)
    return [_hash(keyed.copy(), text) for text in texts]


@cache
def _keyed(secret: str) -> hmac.HMAC:
    """Return an HMAC that has taken its key, which takes as long as a short text does."""
    return hmac.new(secret.encode(), digestmod="sha256")


def _hash(keyed: hmac.HMAC, text: str) -> str:
    keyed.update(text.encode("utf-8", "surrogatepass"))
    return keyed.hexdigest()


class Comment(NamedTuple):
    """A comment to score, and what is stored with it."""

    text: str
    client: APIKey | None = None
    community: str = ""
    external_id: str = ""  # the platform's own
    do_not_store: bool = False  # keep the scores but not the text


Scored = tuple[list[Row], Served]  # and the model that made all of them


def _scores(served: Served, texts: Sequence[str]) -> np.ndarray:
    # A single text skips the batch's set-up.
    return served.scorer.score(texts[0])[None] if len(texts) == 1 else served.scorer.score_many(texts)


def _scored(
    served: Served, comments: Sequence[Comment], hashes: Sequence[str], source: Prediction.Source
) -> Scored:
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
    (result,) = score_each(asked=[comments], source=source)
    if isinstance(result, Exception):
        raise result
    rows, served = result
    return [Prediction.of(row) for row in rows], served


def score_each(*, asked: Sequence[Sequence[Comment]], source: Prediction.Source) -> list[Scored | Exception]:
    """Score and store what requests ask that have nothing to do with each other, as `score` would each.

    All are scored and stored in one go.

    Returns:
        Of each request, in their order, the stored rows and the model that made all of them; an error in
        place of what was not stored.

    Raises:
        NoModelError: no model is in service.
    """
    hashes = [text_hashes(comment.text for comment in comments) for comments in asked]
    places_of: dict[Served, list[int]] = defaultdict(list)
    for place, own in enumerate(hashes):
        places_of[serving.choose(own[0])].append(place)
    results: dict[int, Scored | Exception] = {}
    for served, places in places_of.items():
        results |= _scored_each(served, places, asked, hashes, source)
    made = {place: result[0] for place, result in results.items() if not isinstance(result, Exception)}
    errors = store.insert_each(list(made.values())) if made else []
    results |= {place: error for place, error in zip(made, errors, strict=True) if error}
    return [results[place] for place in range(len(asked))]


def _scored_each(
    served: Served,
    places: Sequence[int],
    asked: Sequence[Sequence[Comment]],
    hashes: Sequence[Sequence[str]],
    source: Prediction.Source,
) -> dict[int, Scored | Exception]:
    """Return the rows of the request at each place, or why they could not be made."""
    try:
        comments = [comment for place in places for comment in asked[place]]
        own = [text_hash for place in places for text_hash in hashes[place]]
        rows, by = _scored(served, comments, own, source)
        made = iter(rows)
        return {place: (list(islice(made, len(asked[place]))), by) for place in places}
    except Exception as error:
        if len(places) == 1:
            return {places[0]: error}
    each = [_scored_each(served, [place], asked, hashes, source) for place in places]
    return {place: result for one in each for place, result in one.items()}


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
