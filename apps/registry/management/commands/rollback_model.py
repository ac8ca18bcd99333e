"""Make the previous champion the champion again."""

from typing import Any

from django.core.management.base import CommandParser

from apps.core.management import get_operator
from apps.registry import actions
from apps.registry.management.base import ModelCommand


class Command(ModelCommand):
    help = """Make the previous champion the champion again, within five seconds and without gates.

The version that is rolled back becomes `previous`, so rolling back twice returns to it."""
    examples = """  manage.py rollback_model --reason "Too many false alarms since this morning\""""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", required=True, help="The reason; it is stored with the rollback.")

    def handle(self, *args: Any, **options: Any) -> None:
        promotion = actions.rollback(reason=options["reason"], actor=get_operator())
        self.stdout.write(f"{promotion.version} is the champion again, in place of {promotion.replaced}.")
        self.sync_tracking()
