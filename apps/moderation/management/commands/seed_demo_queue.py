"""Put the example comments into the queue."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation import actions


class Command(ProjectCommand):
    help = """Put a hundred example comments, marked as examples, into the queue.

Existing examples are not added again. `manage.py remove_examples` deletes them."""
    examples = "  manage.py seed_demo_queue"

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write(f"Added {actions.seed_examples()} examples to the queue.")
