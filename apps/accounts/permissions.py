"""What an actor may do, and which communities a user sees. Actions, selectors and views call this module."""

import hashlib
import json
from typing import TypeVar

from django.db.models import Model, QuerySet
from django.http import HttpRequest

from apps.accounts.models import CommunityAccess, User
from apps.core.exceptions import PermissionDeniedError
from apps.core.permissions import SystemActor

Actor = User | SystemActor

NO_COMMUNITY = (
    "You have access to no community yet. Ask an administrator to give you access: it is set on your page "
    "under Users."
)
# What each permission allows, as the end of the sentence “You do not have permission to …”.
ACTIVITIES = {
    "accounts.add_apikey": "create API keys",
    "accounts.change_apikey": "change API keys",
    "axes.delete_accessattempt": "release locked accounts",
    "moderation.bulk_decide": "decide many items at once",
    "moderation.decide_escalated": "decide escalated items and appeals",
    "moderation.decide_queueitem": "decide items",
    "moderation.export_decision": "export decisions",
    "moderation.manage_policy": "change policies",
    "moderation.resend_delivery": "send webhooks again",
    "moderation.view_decision": "see decisions",
    "moderation.view_delivery": "see webhooks",
    "moderation.view_policy": "see policies",
    "moderation.view_queueitem": "see the queue",
    "monitoring.acknowledge_alert": "acknowledge alerts",
    "monitoring.change_alertrule": "change alert rules",
    "monitoring.view_dashboard": "see the dashboard",
    "registry.change_modelversion": "promote models",
    "registry.override_gates": "promote a model that fails its gates",
    "training.add_dataset": "build data sets",
    "training.add_trainingrun": "start and cancel training runs",
}

M = TypeVar("M", bound=Model)


def get_user(request: HttpRequest) -> User:
    """Return the user of a request to the admin or the console, which only signed-in users reach."""
    assert isinstance(request.user, User)
    return request.user


def require(actor: Actor, permission: str, *, community: str | None = None) -> None:
    """Check that the actor has a permission and, if a community is given, access to it.

    Args:
        permission: its full name, such as `moderation.view_queueitem`.

    Raises:
        PermissionDeniedError: the actor lacks the permission, is inactive or has no access to the community.
    """
    if not actor.has_perm(permission):
        activity = ACTIVITIES.get(permission, f"do this ({permission})")
        raise PermissionDeniedError(f"You do not have permission to {activity}.")
    if community is not None and not may_see_community(actor, community):
        raise PermissionDeniedError("You do not have access to this community.")


def user_or_none(actor: Actor) -> User | None:
    """Return the actor if it is a user, for columns that refer to users."""
    return actor if isinstance(actor, User) else None


def communities_of(actor: Actor) -> list[str] | None:
    """Return the communities that the actor may see, an empty list for none, or None for all.

    The result is cached on the user, like Django's permissions, because one request needs it several times.
    """
    if isinstance(actor, SystemActor):
        return None
    if not actor.is_active:
        return []
    if actor.is_superuser or actor.all_communities:
        return None
    if "communities" not in actor.__dict__:
        rows = CommunityAccess.objects.filter(user=actor).values_list("community", flat=True)
        actor.__dict__["communities"] = list(rows)
    return actor.__dict__["communities"]


def may_see_community(actor: Actor, community: str) -> bool:
    """Return whether the actor may see the community."""
    communities = communities_of(actor)
    return communities is None or community in communities


def users_within_access_of(user: User) -> QuerySet[User]:
    """Return the users who see no more than the user does: those whom the user may change or act as."""
    if user.is_superuser:
        return User.objects.all()
    users = User.objects.filter(is_superuser=False)
    communities = communities_of(user)
    if communities is None:
        return users
    outside = CommunityAccess.objects.exclude(community__in=communities)
    return users.filter(all_communities=False).exclude(pk__in=outside.values("user"))


def require_a_community(user: User) -> None:
    """Check that the user has access to at least one community.

    Raises:
        PermissionDeniedError: the user has access to none; the message says what to do.
    """
    if communities_of(user) == []:
        raise PermissionDeniedError(NO_COMMUNITY)


def in_communities_of(user: User, rows: QuerySet[M], field: str = "community") -> QuerySet[M]:
    """Return the rows that belong to communities that the user may see.

    Args:
        field: the look-up of a row's community, for example `submission__community`.
    """
    communities = communities_of(user)
    return rows if communities is None else rows.filter(**{f"{field}__in": communities})


def access_key(user: User) -> str:
    """Return the part of a cache key that users with access to the same communities share."""
    communities = communities_of(user)
    names = None if communities is None else sorted(communities)
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()
