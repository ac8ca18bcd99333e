"""Create the groups that give people their roles."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation.roles import create_roles


class Command(ProjectCommand):
    help = """Create the groups viewer, moderator, lead, engineer and administrator with their permissions.

It can be run at every start: what is there stays, what is missing is added."""
    examples = "  manage.py create_roles"

    def handle(self, *args: Any, **options: Any) -> None:
        for group in create_roles():
            self.stdout.write(f"{group.name}: {group.permissions.count()} permissions")
