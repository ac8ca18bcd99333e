"""Answer a call that a client sends again from the record. The actions call it.

A call with the same client token, API key, community and text is the same call for a day.
"""

from collections.abc import Mapping, Sequence
from itertools import chain

from django.db import OperationalError, transaction
from django.utils import timezone

from apps.core.batches import map_isolated
from apps.core.database import lock_until_commit
from apps.moderation.actions import RETRY_WINDOW
from apps.predictions import actions as predictions
from apps.predictions.models import Feedback, LabelScores, Prediction
from apps.registry import serving

_MAX_LOCKS = 100  # in one transaction, because PostgreSQL's table of locks is bounded
_Identity = tuple[int | None, str, str, str, bool, int | None]


def score_once(
    comments: Sequence[predictions.Comment], source: Prediction.Source
) -> list[LabelScores | Exception]:
    """Score and store comments with a client token, except those that were stored within the last day.

    Returns:
        `results[i]` has the scores of `comments[i]`, or is the exception that prevented storing it.
    """
    results = (
        map_isolated(
            lambda group: _score_once(group, source),
            comments[begin : begin + _MAX_LOCKS],
            retry=lambda error: not isinstance(error, OperationalError),
        )
        for begin in range(0, len(comments), _MAX_LOCKS)
    )
    return list(chain.from_iterable(results))


@transaction.atomic
def _score_once(comments: Sequence[predictions.Comment], source: Prediction.Source) -> list[LabelScores]:
    identities = list(map(_identify, comments))
    by_identity = dict(zip(identities, comments, strict=True))
    lock_until_commit(*by_identity)
    scores: dict[_Identity, LabelScores] = {**_find_stored(by_identity, source)}
    new = [identity for identity in by_identity if identity not in scores]
    results = predictions.score_batches(batches=[[by_identity[identity]] for identity in new], source=source)
    for identity, result in zip(new, results, strict=True):
        if isinstance(result, Exception):
            raise result
        scores[identity] = result.rows[0]
    return [scores[identity] for identity in identities]


def find_suggestion(
    comment: predictions.Comment, source: Prediction.Source, suggested: Mapping[str, bool], remark: str
) -> Feedback | None:
    """Return the last day's newest feedback about these labels, or None if another suggestion stored it.

    A suggestion that returns to an earlier value is no retry. Concurrent calls with the same comment wait
    until the transaction of the caller ends.
    """
    lock_until_commit(("suggestion", *_identify(comment)))
    feedback = Feedback.objects.filter(
        api_key=comment.api_key,
        prediction__source=source,
        prediction__community=comment.community,
        prediction__external_id=comment.external_id,
        prediction__text_hash=predictions.text_hash(comment.text),
        created_at__gt=timezone.now() - RETRY_WINDOW,
    )
    for row in feedback.order_by("-pk"):
        if row.true_labels == suggested and row.remark == remark:
            return row
        if not suggested.keys().isdisjoint(row.true_labels or {}):
            return None
    return None


def _identify(comment: predictions.Comment) -> _Identity:
    key, model = comment.api_key, comment.model
    return (
        key.pk if key else None,
        comment.community,
        comment.external_id,
        predictions.text_hash(comment.text),
        comment.do_not_store,
        model.version_id if model else None,
    )


def _find_stored(
    comments: Mapping[_Identity, predictions.Comment], source: Prediction.Source
) -> dict[_Identity, Prediction]:
    """Return the predictions of the last day that answer the comments, oldest first."""
    stored = Prediction.objects.filter(
        external_id__in={comment.external_id for comment in comments.values()},
        text_hash__in=[text_hash for _, _, _, text_hash, _, _ in comments],
        created_at__gt=timezone.now() - RETRY_WINDOW,
        source=source,
    )
    results: dict[_Identity, Prediction] = {}
    for row in stored.order_by("id"):
        call = (row.api_key_id, row.community, row.external_id, row.text_hash, row.text is None)
        pinned = (*call, row.model_version_id)
        if pinned in comments:
            results.setdefault(pinned, row)
        if (*call, None) in comments and (*call, None) not in results and _was_in_service(row):
            results[*call, None] = row
    return results


def _was_in_service(prediction: Prediction) -> bool:
    """Return whether a call that names no version may have been scored by the version of the prediction."""
    text_hash, version_id = prediction.text_hash, prediction.model_version_id
    return serving.route(text_hash).version_id == version_id or serving.was_routed(
        text_hash, version_id, prediction.created_at
    )
