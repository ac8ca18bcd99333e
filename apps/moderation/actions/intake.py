"""Comments come in: scored, judged by the policy, and put before a human where it says so."""

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from apps.accounts.models import APIKey, User
from apps.classifier.normalise import normalise
from apps.moderation import triage
from apps.moderation.errors import ConflictError, ModerationError
from apps.moderation.models import Author, Decision, Policy, QueueItem, Strike, Submission
from apps.predictions import actions as predictions
from apps.predictions.models import Prediction

RETRY_WINDOW = timedelta(days=1)


@dataclass(frozen=True)
class Answer:
    """The answer to a `moderate` call; `item` is None where no human looks at the comment."""

    submission: Submission
    item: QueueItem | None
    is_repeat: bool


def moderate(
    *,
    text: str,
    client: APIKey | None = None,
    community: str = "",
    author_ref: str = "",
    external_id: str = "",
    context: Mapping[str, Any] | None = None,
    callback_url: str = "",
    source: Prediction.Source = Prediction.Source.API,
    example: bool = False,
    is_shared_id: bool = False,
) -> Answer:
    """Score a comment, judge it by the community's policy and store all of it in one transaction.

    The same external id from the same client returns the first answer.

    Args:
        is_shared_id: the external id may belong to several comments, as a Perspective client's `clientToken`
            may. Only the same comment, sent again with the same id within a day, returns the first answer.

    Raises:
        NoModelError: no model is in service.
        ModerationError: no policy is active.
        ConflictError: the external id came before, with another comment.
    """
    retry_keys = _retry_keys(text, client, community, external_id) if is_shared_id and external_id else []

    def earlier() -> Answer | None:
        if retry_keys:
            return _earlier_retry(retry_keys)
        return _earlier(text, client, external_id) if external_id else None

    if answer := earlier():
        return answer
    try:
        with transaction.atomic():
            return _moderate(
                text=text,
                client=client,
                community=community,
                author_ref=author_ref,
                external_id=external_id,
                context=dict(context or {}),
                callback_url=callback_url,
                source=source,
                example=example,
                retry_key=retry_keys[0] if retry_keys else None,
            )
    except IntegrityError:
        # Somebody stored the same external id meanwhile: the unique constraint chose the winner.
        if answer := earlier():
            return answer
        raise


def _retry_keys(text: str, client: APIKey | None, community: str, external_id: str) -> list[str]:
    """Return the retry key of a comment that comes today, and the one that it had yesterday."""
    content = [client and client.pk, community, external_id, predictions.text_hash(text)]
    today = timezone.now().date()
    return [
        hashlib.sha256(json.dumps([*content, str(day)]).encode()).hexdigest()
        for day in (today, today - timedelta(days=1))
    ]


def _earlier_retry(retry_keys: Sequence[str]) -> Answer | None:
    since = timezone.now() - RETRY_WINDOW
    submissions = Submission.objects.select_related("prediction").filter(created_at__gt=since)
    submission = submissions.filter(retry_key__in=retry_keys).order_by("created_at").first()
    return _repeat(submission) if submission else None


def _earlier(text: str, client: APIKey | None, external_id: str) -> Answer | None:
    submission = (
        Submission.objects.select_related("prediction")
        .filter(client=client, external_id=external_id, retry_key=None)
        .first()
    )
    if submission is None:
        return None
    if submission.prediction.text_hash != predictions.text_hash(text):
        raise ConflictError(f"The external id “{external_id}” belongs to another comment.")
    return _repeat(submission)


def _repeat(submission: Submission) -> Answer:
    return Answer(submission, submission.items.order_by("pk").first(), is_repeat=True)


def _moderate(
    *,
    text: str,
    client: APIKey | None,
    community: str,
    author_ref: str,
    external_id: str,
    context: dict[str, Any],
    callback_url: str,
    source: Prediction.Source,
    example: bool,
    retry_key: str | None,
) -> Answer:
    policy = Policy.objects.active_for(community)
    if policy is None:
        raise ModerationError("No policy is active: run `manage.py install_default_policy`.")
    scored, _ = predictions.score(
        texts=[text], source=source, client=client, community=community, external_ids=[external_id]
    )
    prediction = scored[0]
    verdict = triage.triage(probabilities=prediction.probabilities, policy=policy)
    outcome = Submission.Outcome.HUMAN_REVIEW if example else verdict.outcome
    author = Author.objects.get_or_create(community=community, ref=author_ref)[0] if author_ref else None
    submission = Submission.objects.create(
        prediction=prediction,
        client=client,
        external_id=external_id,
        retry_key=retry_key,
        community=community,
        author=author,
        context=context,
        callback_url=callback_url,
        policy=policy,
        outcome=outcome,
        reasons=verdict.reasons,
        is_example=example,
    )
    kind, chance = _what_to_look_at(verdict, policy, example)
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
        strike(decision)
    item = None
    if kind is not None:
        item = queue(
            submission=submission,
            policy=policy,
            kind=kind,
            label=verdict.label,
            chance=chance,
        )
    return Answer(submission, item, is_repeat=False)


def _what_to_look_at(
    verdict: triage.Verdict, policy: Policy, example: bool
) -> tuple[QueueItem.Kind | None, float]:
    """Return the kind of queue item that a comment needs, or None, and how likely it was to get one."""
    if example:
        return QueueItem.Kind.EXAMPLE, 1.0
    if verdict.outcome == Submission.Outcome.HUMAN_REVIEW:
        return QueueItem.Kind.REVIEW, 1.0
    is_approval = verdict.outcome == Submission.Outcome.APPROVE
    share = policy.audit_share if is_approval else policy.reject_audit_share
    return (QueueItem.Kind.AUDIT, share) if random.random() < share else (None, 0.0)


def queue(
    *,
    submission: Submission,
    policy: Policy,
    kind: QueueItem.Kind,
    label: str,
    chance: float = 1.0,
    selection_reason: str = "",
    excluded_reviewer: User | None = None,
    requested_by: User | None = None,
) -> QueueItem:
    """Put a comment in the queue, in the cluster of the open item that it resembles most.

    Args:
        chance: how likely a comment like it was to be looked at.
        selection_reason: of one to learn from, why it was chosen.
        excluded_reviewer: who must not decide it.
        requested_by: who sent it to review, where a person did.
    """
    now = timezone.now()
    probabilities = submission.prediction.probabilities
    strikes = submission.author.active_strikes(now) if submission.author else 0
    rank = triage.rank(probabilities=probabilities, policy=policy, kind=kind, strikes=strikes, now=now)
    normalised = normalise(submission.text)[0]
    first, second = triage.sketch(normalised)
    return QueueItem.objects.create(
        submission=submission,
        policy=policy,
        community=submission.community,
        kind=kind,
        selection_reason=selection_reason,
        label=label,
        score=probabilities[label],
        sampling_chance=chance,
        cluster=_cluster(submission.community, normalised, first, second),
        minhash_a=first,
        minhash_b=second,
        excluded_reviewer=excluded_reviewer,
        requested_by=requested_by,
        created_at=now,
        queue=rank.queue,
        severity=rank.severity,
        uncertainty=rank.uncertainty,
        author_risk=rank.author_risk,
        priority=rank.priority,
        due_at=rank.due_at,
    )


def _cluster(community: str, normalised: str, first: int, second: int) -> int:
    # Two cheap look-ups instead of one OR, which would keep PostgreSQL from using either index in order.
    candidates: dict[int, tuple[int, str]] = {}
    for column, value in (("minhash_a", first), ("minhash_b", second)):
        rows = (
            QueueItem.objects.open()
            .filter(community=community, **{column: value})
            .order_by("-pk")
            .values_list("pk", "cluster", "submission__prediction__text")[:20]
        )
        for pk, cluster, text in rows:
            candidates[pk] = (cluster, normalise(text or "")[0])
    nearest = triage.nearest_text(normalised, {pk: text for pk, (_, text) in candidates.items()})
    if nearest is not None:
        return candidates[nearest][0]
    digest = hashlib.sha256(normalised.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> 1  # the columns of every database are signed


def strike(decision: Decision) -> None:
    """Give the author the strikes that a rejection costs."""
    if (
        decision.action == Decision.Action.REJECT
        and decision.author_id
        and decision.rule
        and decision.rule.strikes
    ):
        Strike.objects.create(
            author_id=decision.author_id,
            decision=decision,
            points=decision.rule.strikes,
            expires_at=decision.created_at + timedelta(days=decision.policy.strike_days),
        )
