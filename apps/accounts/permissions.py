"""Which communities a user may see. Every queryset that reaches a person is limited here."""

import hashlib
import json
from typing import TypeVar

from django.core.exceptions import PermissionDenied
from django.db.models import Model, QuerySet

from apps.accounts.models import CommunityAccess, User

NO_COMMUNITY = (
    "You have access to no community yet. Ask an administrator to give you access: it is set on your page "
    "under Users."
)

M = TypeVar("M", bound=Model)


def communities_of(user: User) -> list[str] | None:
    """Return the communities that the user may see, an empty list for none, or None for all.

    The result is kept with the user, as Django keeps permissions, because one request needs it several times.
    """
    if not user.is_active:
        return []
    if user.is_superuser or user.all_communities:
        return None
    if "communities" not in user.__dict__:
        rows = CommunityAccess.objects.filter(user=user).values_list("community", flat=True)
        user.__dict__["communities"] = list(rows)
    return user.__dict__["communities"]


def may_see_community(user: User, community: str) -> bool:
    """Return whether the user may see the community."""
    communities = communities_of(user)
    return communities is None or community in communities


def users_within_access_of(user: User) -> QuerySet[User]:
    """Return the users who see no more than the user does: those whom the user may change or act as."""
    if user.is_superuser:
        return User.objects.all()
    others = User.objects.filter(is_superuser=False)
    communities = communities_of(user)
    if communities is None:
        return others
    beyond = CommunityAccess.objects.exclude(community__in=communities)
    return others.filter(all_communities=False).exclude(pk__in=beyond.values("user"))


def require_a_community(user: User) -> None:
    """Raise PermissionDenied, with what to do about it, where the user has access to no community."""
    if communities_of(user) == []:
        raise PermissionDenied(NO_COMMUNITY)


def in_communities_of(user: User, rows: QuerySet[M], field: str = "community") -> QuerySet[M]:
    """Return the rows that belong to communities that the user may see.

    Args:
        field: the look-up of the row's community, for example `submission__community`.
    """
    communities = communities_of(user)
    return rows if communities is None else rows.filter(**{f"{field}__in": communities})


def access_key(user: User) -> str:
    """Return a cache key's part that users share who may see the same communities, and nobody else."""
    communities = communities_of(user)
    names = None if communities is None else sorted(communities)
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()
