"""Score a comment, apply the policy and queue the comment if a moderator is to review it."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from apps.accounts.models import APIKey
from apps.core.database import lock_until_commit
from apps.moderation import triage
from apps.moderation.actions.decisions import add_strikes
from apps.moderation.actions.policies import active_policy
from apps.moderation.actions.queue import enqueue_item, withdraw
from apps.moderation.models import Author, Decision, Policy, QueueItem, Submission
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction
from apps.registry import serving

RETRY_WINDOW = timedelta(days=1)


@dataclass(frozen=True)
class ModerationResult:
    """The result of a `moderate` call; `item` is None unless the comment is queued for review."""

    submission: Submission
    item: QueueItem | None
    is_repeat: bool


def moderate(
    *,
    text: str,
    api_key: APIKey | None = None,
    community: str = "",
    author_ref: str = "",
    external_id: str = "",
    session_id: str = "",
    context: Mapping[str, Any] | None = None,
    callback_url: str = "",
    source: Prediction.Source = Prediction.Source.API,
    example: bool = False,
    is_shared_id: bool = False,
    id_scope: str = "",
    previous: Submission | None = None,
) -> ModerationResult:
    """Score a comment, apply the community's policy and store the result in one transaction.

    A further call with the same external ID, API key and text returns the first result. With another text it
    is a revision: it is linked to the previous one, whose open queue items are withdrawn except appeals.

    Args:
        session_id: the session that a Perspective client names.
        is_shared_id: whether several comments may have the external ID, such as Perspective's `clientToken`.
            Then only the same comment, sent again within a day, returns the first result.
        id_scope: what the shared ID is unique in, such as a connection.
        previous: the previous revision of a comment with a shared ID. Otherwise it is looked up.

    Raises:
        NoModelError: no model is being served.
        ModerationError: no policy is active.
    """
    key_id, text_hash = api_key and api_key.pk, predictions.text_hash(text)
    retry_keys: list[str] = []
    earlier = None
    with transaction.atomic():
        # Concurrent calls with the same external ID run one after the other, so that each one finds the
        # revision of the one before.
        if external_id and is_shared_id:
            identity = [key_id, community, external_id, text_hash]
            identity += [id_scope, str(previous.pk) if previous else ""] if id_scope else []
            lock_until_commit(("retry", *identity))
            retry_keys = _retry_keys(identity)
            earlier = _earlier_retry(retry_keys)
        elif external_id:
            lock_until_commit(("revision", key_id, external_id))
            previous = _newest_revision(api_key, external_id)
            if previous and previous.prediction.text_hash == text_hash:
                earlier = previous
        if earlier:
            return ModerationResult(earlier, earlier.items.order_by("pk").first(), is_repeat=True)
        return _moderate(
            text=text,
            api_key=api_key,
            community=community,
            author_ref=author_ref,
            external_id=external_id,
            session_id=session_id,
            previous=previous,
            context=dict(context or {}),
            callback_url=callback_url,
            source=source,
            example=example,
            retry_key=retry_keys[0] if retry_keys else None,
        )


def _retry_keys(identity: Sequence[object]) -> list[str]:
    """Return the retry keys of a comment for today and yesterday."""
    today = timezone.now().date()
    return [
        hashlib.sha256(json.dumps([*identity, str(day)]).encode()).hexdigest()
        for day in (today, today - timedelta(days=1))
    ]


def _earlier_retry(retry_keys: Sequence[str]) -> Submission | None:
    since = timezone.now() - RETRY_WINDOW
    submissions = Submission.objects.select_related("prediction").filter(created_at__gt=since)
    return submissions.filter(retry_key__in=retry_keys).order_by("created_at").first()


def _newest_revision(api_key: APIKey | None, external_id: str) -> Submission | None:
    submissions = Submission.objects.select_related("prediction").filter(
        api_key=api_key, external_id=external_id, retry_key=None
    )
    return submissions.order_by("-revision").first()


def _moderate(
    *,
    text: str,
    api_key: APIKey | None,
    community: str,
    author_ref: str,
    external_id: str,
    session_id: str,
    previous: Submission | None,
    context: dict[str, Any],
    callback_url: str,
    source: Prediction.Source,
    example: bool,
    retry_key: str | None,
) -> ModerationResult:
    policy = active_policy(community)
    scored, _ = predictions.score(
        texts=[text], source=source, api_key=api_key, community=community, external_ids=[external_id]
    )
    prediction = scored[0]
    verdict = triage.apply_policy(
        probabilities=prediction.probabilities,
        policy=policy,
        is_scorable=not policy.review_other_languages or serving.current().scorer.can_score(text),
    )
    outcome = Submission.Outcome.HUMAN_REVIEW if example else verdict.outcome
    author = Author.objects.get_or_create(community=community, ref=author_ref)[0] if author_ref else None
    submission = Submission.objects.create(
        prediction=prediction,
        api_key=api_key,
        external_id=external_id,
        retry_key=retry_key,
        session_id=session_id,
        revision=previous.revision + 1 if previous else 1,
        previous=previous,
        community=community,
        author=author,
        context=context,
        callback_url=callback_url,
        policy=policy,
        outcome=outcome,
        reasons=verdict.reasons,
        is_example=example,
    )
    if previous:
        # A concurrent request for a review of the previous text holds this lock as well.
        list(Prediction.objects.select_for_update().filter(pk=previous.pk).values_list("pk"))
        withdraw(previous.items.exclude(kind=QueueItem.Kind.APPEAL))
    kind, chance = _review_kind(verdict, policy, example)
    if outcome != Submission.Outcome.HUMAN_REVIEW:
        decision = Decision.objects.create(
            submission=submission,
            author=author,
            action=Decision.Action(outcome.value),
            rule=verdict.rule if outcome == Submission.Outcome.REJECT else None,
            model_version_id=prediction.model_version_id,
            policy=policy,
            automatic=True,
        )
        add_strikes(decision)
    item = None
    if kind is not None:
        item = enqueue_item(
            submission=submission,
            policy=policy,
            kind=kind,
            label=verdict.label,
            chance=chance,
        )
    return ModerationResult(submission, item, is_repeat=False)


def _review_kind(
    verdict: triage.Verdict, policy: Policy, example: bool
) -> tuple[QueueItem.Kind | None, float]:
    """Return the kind of queue item that the comment gets, or None, and the probability of getting one."""
    if example:
        return QueueItem.Kind.EXAMPLE, 1.0
    if verdict.outcome == Submission.Outcome.HUMAN_REVIEW:
        return QueueItem.Kind.REVIEW, 1.0
    is_approval = verdict.outcome == Submission.Outcome.APPROVE
    share = policy.audit_share if is_approval else policy.reject_audit_share
    return (QueueItem.Kind.AUDIT, share) if random.random() < share else (None, 0.0)
