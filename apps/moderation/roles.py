"""The groups of `permissions.ROLES` in the database."""

from django.contrib.auth.models import Group, Permission
from django.db import transaction
from django.db.models import Q

from apps.moderation.permissions import ROLES


@transaction.atomic
def create_roles() -> list[Group]:
    """Create the groups, or give those that are there the permissions they lack; never take one away."""
    groups = []
    for name, permissions in ROLES.items():
        group, _ = Group.objects.get_or_create(name=name)
        wanted = Q(pk__in=())
        for permission in permissions:
            app, _, codename = permission.partition(".")
            wanted |= (
                Q(content_type__app_label=app)
                if codename == "*"
                else Q(content_type__app_label=app, codename=codename)
            )
        group.permissions.add(*Permission.objects.filter(wanted))
        groups.append(group)
    return groups
