"""The roles with their permissions, and the permission checks that every action makes."""

from django.db.models import Exists, OuterRef, Q
from django.http import Http404

from apps.accounts.models import User
from apps.accounts.permissions import communities_of, may_see_community, require
from apps.core.exceptions import PermissionDeniedError
from apps.moderation.exceptions import StaleError
from apps.moderation.models import Decision, Policy, Queue, QueueItem, QueueItemQuerySet
from apps.moderation.selectors import visible

LEAD_QUEUES = (Queue.ESCALATED, Queue.APPEAL)

_VIEW = (
    "predictions.view_prediction",
    "predictions.view_feedback",
    "moderation.view_policy",
    "moderation.view_policyrule",
    "moderation.view_queueitem",
    "moderation.view_decision",
    "moderation.view_author",
    "moderation.view_appeal",
)
_DECIDE = (*_VIEW, "moderation.decide_queueitem")
_LEAD = (
    *_DECIDE,
    "moderation.decide_escalated",
    "moderation.bulk_decide",
    "moderation.manage_policy",
    "moderation.add_policy",
    "moderation.change_policy",
    "moderation.add_policyrule",
    "moderation.change_policyrule",
    "moderation.delete_policyrule",
    "moderation.export_decision",
    "moderation.resend_delivery",
    "moderation.view_delivery",
    "moderation.view_bulkjob",
    "registry.view_modelversion",
    "registry.view_promotion",
    "registry.view_canary",
    "registry.view_canaryend",
    "registry.change_modelversion",
    "registry.override_gates",
    "monitoring.view_dashboard",
    "monitoring.view_alert",
    "monitoring.acknowledge_alert",
    "connectors.view_platformaction",
    "training.view_gatereport",
    "training.view_trainingrun",
)
_ENGINEER = (
    *_VIEW,
    "registry.view_modelversion",
    "registry.change_modelversion",
    "registry.view_promotion",
    "registry.view_canary",
    "registry.view_canaryend",
    "registry.view_canaryfailure",
)
# `*` stands for every permission of an app, also those of models that are added later.
ROLES: dict[str, tuple[str, ...]] = {
    "viewer": _VIEW,
    "moderator": _DECIDE,
    "lead": _LEAD,
    "engineer": (*_ENGINEER, "training.*", "monitoring.*"),
    "administrator": (
        "accounts.*",
        "auth.*",
        "registry.*",
        "predictions.*",
        "webhooks.*",
        "connectors.*",
        "moderation.*",
        "mirror.*",
        "training.*",
        "monitoring.*",
        "axes.view_accessattempt",
        "axes.delete_accessattempt",
    ),
}


def may_manage_policy(user: User, community: str) -> bool:
    """Return whether the user may change a community's policy; the default one needs all communities."""
    if not user.has_perm("moderation.manage_policy"):
        return False
    return may_see_community(user, community) if community else communities_of(user) is None


def require_policy(user: User, community: str) -> None:
    """Check that the user may change a community's policy.

    Raises:
        PermissionDeniedError: the user may not.
    """
    if may_manage_policy(user, community):
        return
    require(user, "moderation.manage_policy", community=community or None)
    raise PermissionDeniedError(
        "The default policy applies to every community: only users with access to all of them may change it."
    )


def visible_to(user: User, items: QueueItemQuerySet | None = None) -> QueueItemQuerySet:
    """Return the items that the user may see: see `selectors`.

    Raises:
        PermissionDeniedError: the user may not see the queue.
    """
    require(user, "moderation.view_queueitem")
    items = QueueItem.objects.all() if items is None else items
    return visible(user, items)  # type: ignore[return-value]


def visible_item(user: User, pk: int) -> QueueItem:
    """Return an item that the user may see, with its related objects.

    Raises:
        PermissionDeniedError: the user may not see the queue.
        Http404: there is no such item for the user.
        StaleError: another moderator has decided it, and the decision is hidden until the second review.
    """
    item = visible_to(user, QueueItem.objects.with_related()).filter(pk=pk).first()
    if item is not None:
        return item
    hidden = QueueItem.objects.exclude(status=QueueItem.Status.OPEN).filter(pk=pk).first()
    if hidden is None or not may_see_community(user, hidden.community):
        raise Http404(f"There is no item {pk}.")
    raise StaleError("Another moderator has decided this item meanwhile.")


def decided_before(user: User) -> Q:
    """Return the condition for items that another moderator has to decide, because the user decided before.

    An appeal is not for anyone whose decision on the comment is in force, whatever item it was made on.
    """
    decisions = Decision.objects.filter(by=user, submission=OuterRef("submission")).effective()
    on_other_items = decisions.exclude(action=Decision.Action.ESCALATE).exclude(item=OuterRef("pk"))
    return Q(excluded_reviewer=user) | Q(kind=QueueItem.Kind.APPEAL) & Q(Exists(on_other_items))


def has_decided_before(user: User, item: QueueItem) -> bool:
    """Return whether another moderator has to decide the item, see `decided_before`."""
    return QueueItem.objects.filter(decided_before(user), pk=item.pk).exists()


def decidable_by(user: User, items: QueueItemQuerySet | None = None) -> QueueItemQuerySet:
    """Return the items that the user may decide: the policy allows it, and the user has not decided before.

    Raises:
        PermissionDeniedError: the user may not decide at all.
    """
    require(user, "moderation.decide_queueitem")
    items = visible_to(user, items).exclude(decided_before(user))
    if restricted := Policy.objects.restricted_for(user):
        items = items.exclude(policy__in=restricted)
    return items if user.has_perm("moderation.decide_escalated") else items.exclude(queue__in=LEAD_QUEUES)


def require_item(user: User, item: QueueItem) -> None:
    """Check that the user may decide the item.

    Raises:
        PermissionDeniedError: the item is not among those of `decidable_by`; the message says why.
    """
    require(user, "moderation.decide_queueitem", community=item.community)
    if has_decided_before(user, item):
        raise PermissionDeniedError("Another moderator has to decide this: you decided it before.")
    if item.queue in LEAD_QUEUES and not user.has_perm("moderation.decide_escalated"):
        raise PermissionDeniedError("Only a lead can decide appeals and escalated items.")
    groups = item.policy.allowed_groups
    if groups and not user.is_superuser and not user.groups.filter(name__in=groups).exists():
        raise PermissionDeniedError(
            f"Under the policy {item.policy}, only these decide: {', '.join(groups)}."
        )
