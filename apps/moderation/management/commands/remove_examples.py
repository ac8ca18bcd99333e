"""Take the examples away."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation import actions


class Command(ProjectCommand):
    help = """Delete the example comments with all that was decided of them. Nothing else is touched."""
    examples = "  manage.py remove_examples"

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Removed {actions.remove_examples()} examples.")
