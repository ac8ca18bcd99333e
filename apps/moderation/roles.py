"""The groups of `permissions.ROLES` in the database."""

from django.contrib.auth.models import Group, Permission
from django.db import transaction
from django.db.models import Q

from apps.moderation.permissions import ROLES


@transaction.atomic
def create_roles() -> list[Group]:
    """Create the groups that are missing, and add missing permissions to the others; remove none."""
    groups = []
    for name, permissions in ROLES.items():
        group, _ = Group.objects.get_or_create(name=name)
        condition = Q(pk__in=())
        for permission in permissions:
            app, _, codename = permission.partition(".")
            condition |= (
                Q(content_type__app_label=app)
                if codename == "*"
                else Q(content_type__app_label=app, codename=codename)
            )
        group.permissions.add(*Permission.objects.filter(condition))
        groups.append(group)
    return groups
