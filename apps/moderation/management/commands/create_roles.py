"""Create the groups of the roles."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation.roles import create_roles


class Command(ProjectCommand):
    help = """Create the groups viewer, moderator, lead, engineer and administrator with their permissions.

It can be run at every start: it adds missing groups and permissions and removes none."""
    examples = "  manage.py create_roles"

    def handle(self, *args: Any, **options: Any) -> None:
        for group in create_roles():
            self.stdout.write(f"{group.name}: {group.permissions.count()} permissions")
