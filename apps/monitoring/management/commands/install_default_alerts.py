"""`manage.py install_default_alerts`: create the default alert rules."""

from typing import Any

from django.core.management import BaseCommand

from apps.core.text import pluralize
from apps.monitoring import actions


class Command(BaseCommand):
    help = "Create the default alert rules that are missing. Enter their recipients in the admin."

    def handle(self, *args: Any, **options: Any) -> None:
        count = actions.install_default_rules()
        self.stdout.write(
            f"Created {pluralize(count, 'alert rule')}. Enter their recipients in the admin."
            if count
            else "All default alert rules exist."
        )
