"""Reads for a user, limited to what the user may see.

Two rules apply to every list, search, export and count:

- A user sees the communities to which they have access (see `apps.accounts.permissions`).
- Until a blind second review is decided, users who could decide it do not see the first decision on the
  comment, nor the items, strikes and deliveries that reveal it. An appeal withdraws the second review,
  because the moderator who decides the appeal has to see the decision.

Superusers see everything; only the page on which they decide a blind review hides the first decision.
"""

from typing import TypeVar

from django.db.models import Exists, Model, OuterRef, Q, QuerySet

from apps.accounts.models import User
from apps.accounts.permissions import communities_of, in_communities_of, may_see_community
from apps.moderation.models import (
    Appeal,
    Author,
    BulkJob,
    Decision,
    Delivery,
    Policy,
    QueueItem,
    Strike,
    Submission,
)

MAX_COMMUNITIES = 1_000
M = TypeVar("M", bound=Model)

# By model: the look-up of a row's community, and of the submission whose decisions the row shows.
_LOOKUPS: dict[type[Model], tuple[str, str | None]] = {
    Submission: ("community", None),
    QueueItem: ("community", "submission"),
    Decision: ("submission__community", "submission"),
    Author: ("community", None),
    Strike: ("author__community", "decision__submission"),
    Appeal: ("item__community", "decision__submission"),
    Delivery: ("decision__submission__community", "decision__submission"),
}


def visible(user: User, rows: QuerySet[M]) -> QuerySet[M]:
    """Return the rows of a moderation table that the user may see.

    Raises:
        KeyError: the table is not one that belongs to communities.
    """
    if rows.model is BulkJob:
        return rows.filter(_visible_jobs(user))
    if rows.model is Policy:
        communities = communities_of(user)
        # The default policy applies to every community.
        return rows if communities is None else rows.filter(community__in=["", *communities])
    table: type[Model] = rows.model._meta.concrete_model or rows.model
    community, submission = _LOOKUPS[table]
    rows = in_communities_of(user, rows, community)
    if submission is None or user.is_superuser or not user.has_perm("moderation.decide_queueitem"):
        return rows
    has_blind_review = Exists(
        QueueItem.objects.open()
        .filter(kind=QueueItem.Kind.SECOND, submission=OuterRef(submission))
        .exclude(excluded_reviewer=user)
    )
    if rows.model is QueueItem:
        # An open item shows no decision. The queue's partial indexes contain open items only.
        return rows.filter(Q(status=QueueItem.Status.OPEN) | ~has_blind_review)
    return rows.filter(~has_blind_review)


def _visible_jobs(user: User) -> Q:
    """Return the condition for the user to see a bulk job: it is the user's, or of a visible community."""
    communities = communities_of(user)
    if communities is None:
        return Q()
    # A job without a community decides items in all communities of the user who created it.
    return Q(created_by=user) & ~Q(filter__has_key="community") | Q(filter__community__in=communities)


def active_strikes(user: User, author: Author) -> int:
    """Return the sum of the author's strikes that count and that the user may see."""
    return visible(user, Strike.objects.active().filter(author=author)).points()  # type: ignore[attr-defined]


def author_decisions(user: User, author: Author) -> QuerySet[Decision]:
    """Return the decisions on the author's comments that the user may see, newest first."""
    decisions = Decision.objects.filter(author=author).select_related("by", "rule", "submission__prediction")
    return visible(user, decisions).order_by("-pk")


def open_appeals(author: Author) -> QuerySet[Appeal]:
    """Return the author's open appeals."""
    return Appeal.objects.filter(decision__author=author, status=Appeal.Status.OPEN)


def appeal_state(decision: Decision) -> tuple[Decision | None, Appeal | None]:
    """Return the rejection that an author who holds the token of `decision` can appeal, and its appeal.

    The comment may have been rejected again since `decision`: on appeal, or after it was sent to review. The
    token then stands for the newer rejection.

    Returns:
        The comment's current decision if it is a rejection, else None; and the appeal that is open, is about
        the current rejection or was upheld with it. Without a current rejection, it is the newest appeal.
    """
    decisions = Decision.objects.filter(submission=decision.submission_id).in_force()
    related = ("submission__prediction", "rule", "policy", "model_version")
    current = decisions.select_related(*related).order_by("-pk").first()
    rejection = current if current is not None and current.action == Decision.Action.REJECT else None
    appeals = Appeal.objects.filter(decision__submission=decision.submission_id).select_related("decision")
    if rejection is not None:
        appeals = appeals.filter(Q(status=Appeal.Status.OPEN) | Q(decision=rejection) | Q(outcome=rejection))
    return rejection, appeals.order_by("-pk").first()


def communities_for(user: User) -> list[str]:
    """Return the names of the existing communities that the user may see, at most `MAX_COMMUNITIES`.

    A community exists once a comment or a policy names it. The empty name, for comments without a community,
    is among them where there are such comments.
    """
    names = set(Policy.objects.exclude(community="").values_list("community", flat=True).distinct())
    # One look-up in the index for each community: `DISTINCT` would read every submission.
    submissions = Submission.objects.order_by("community").values_list("community", flat=True)
    name = submissions.first()
    while name is not None and len(names) < MAX_COMMUNITIES:
        names.add(name)
        name = submissions.filter(community__gt=name).first()
    return sorted(name for name in names if may_see_community(user, name))
