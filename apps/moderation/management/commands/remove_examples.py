"""Take the examples away."""

from typing import Any

from apps.moderation import actions
from apps.registry.management import base


class Command(base.Command):
    help = """Delete the example comments with all that was decided of them. Nothing else is touched."""
    examples = "  manage.py remove_examples"

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Removed {actions.remove_examples()} examples.")
