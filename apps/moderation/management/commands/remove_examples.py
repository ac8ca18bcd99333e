"""Delete the example comments."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation import actions


class Command(ProjectCommand):
    help = """Delete the example comments and all decisions on them. Other comments are not changed."""
    examples = "  manage.py remove_examples"

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Removed {actions.remove_examples()} examples.")
