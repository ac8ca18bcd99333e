"""Put comments into the queue and rank them."""

import hashlib
from dataclasses import asdict

from django.db.models import F
from django.utils import timezone

from apps.accounts.models import User
from apps.classifier.normalise import normalise
from apps.moderation import triage
from apps.moderation.models import Decision, Policy, QueueItem, QueueItemQuerySet, Submission


def enqueue_item(
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
    """Put a comment into the queue, in the cluster of the most similar open item.

    Args:
        label: empty if the language of the comment is not scored.
        chance: the probability with which a comment like it is sampled for review.
        selection_reason: of an item for active learning only.
        excluded_reviewer: the user who must not decide it.
        requested_by: the user who sent it to review, if a user did.
    """
    now = timezone.now()
    probabilities = submission.prediction.probabilities
    strikes = submission.author.active_strikes(now) if submission.author else 0
    rank = triage.rank(probabilities=probabilities, policy=policy, kind=kind, strikes=strikes, now=now)
    normalised = normalise(submission.text)[0]
    first, second = triage.minhash(normalised)
    return QueueItem.objects.create(
        submission=submission,
        policy=policy,
        community=submission.community,
        kind=kind,
        selection_reason=selection_reason,
        label=label,
        score=probabilities.get(label, 0.0),
        sampling_chance=chance,
        cluster=_cluster(submission.community, normalised, first, second),
        minhash_a=first,
        minhash_b=second,
        excluded_reviewer=excluded_reviewer,
        requested_by=requested_by,
        created_at=now,
        **asdict(rank),
    )


def _cluster(community: str, normalised: str, first: int, second: int) -> int:
    # One query for each column, because PostgreSQL uses neither index in order for an OR of both.
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
    nearest = triage.most_similar(normalised, {pk: text for pk, (_, text) in candidates.items()})
    if nearest is not None:
        return candidates[nearest][0]
    digest = hashlib.sha256(normalised.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> 1  # the columns of every database are signed


def enqueue_second_review(item: QueueItem, user: User) -> None:
    """Put an item into the queue once more, for a moderator other than the user to decide blind."""
    now = timezone.now()
    rank = triage.rank(
        probabilities=item.prediction.probabilities, policy=item.policy, kind=QueueItem.Kind.SECOND, now=now
    )
    QueueItem.objects.create(
        submission=item.submission,
        policy=item.policy,
        community=item.community,
        kind=QueueItem.Kind.SECOND,
        label=item.label,
        score=item.score,
        sampling_chance=item.policy.second_review_share,
        cluster=item.cluster,
        minhash_a=item.minhash_a,
        minhash_b=item.minhash_b,
        original=item,
        excluded_reviewer=user,
        created_at=now,
        **asdict(rank) | {"author_risk": item.author_risk},
    )


def decided_label(decision: Decision) -> str:
    """Return the label of the decision's rule, or else the label that is nearest to its threshold."""
    rule_label = decision.rule.label if decision.rule else ""
    return rule_label or triage.nearest_label(decision.submission.prediction.probabilities, decision.policy)


def withdraw(items: QueueItemQuerySet) -> None:
    """Withdraw the open ones of the items, and end their leases.

    The items are locked first: a concurrent decision or undo may open one, or add a second review.
    """
    list(items.order_by("pk").select_for_update(of=("self",)).values_list("pk"))
    items.open().update(
        status=QueueItem.Status.WITHDRAWN, lease_by=None, lease_until=None, version=F("version") + 1
    )


def rerank(item: QueueItem, *, escalated: bool) -> None:
    """Set the item's queue, priority and deadline after it was escalated, or after that was undone."""
    author = item.submission.author
    rank = triage.rank(
        probabilities=item.prediction.probabilities,
        policy=item.policy,
        kind=QueueItem.Kind(item.kind),
        strikes=author.active_strikes() if author else 0,
        now=item.created_at,
        escalated=escalated,
    )
    item.queue, item.priority, item.due_at = rank.queue, rank.priority, rank.due_at
