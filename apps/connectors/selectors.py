"""Reads for a user, limited to the user's communities."""

from django.db.models import Q, QuerySet

from apps.accounts.models import User
from apps.accounts.permissions import in_communities_of
from apps.connectors.models import Connection, PlatformAction
from apps.moderation.models import Decision
from apps.moderation.selectors import visible


def visible_connections(user: User) -> QuerySet[Connection]:
    """Return the connections of the user's communities."""
    return in_communities_of(user, Connection.objects.all())


def visible_actions(user: User) -> QuerySet[PlatformAction]:
    """Return the actions of the user's communities, except those for hidden decisions."""
    actions = in_communities_of(user, PlatformAction.objects.all(), "comment__submission__community")
    return actions.filter(Q(decision=None) | Q(decision__in=visible(user, Decision.objects.all())))
