"""`manage.py install_default_alerts`: the usual alert rules."""

from typing import Any

from django.core.management import BaseCommand

from apps.monitoring.alerts import install_default_rules


class Command(BaseCommand):
    help = "Install the usual alert rules where there are none. Say in the admin who is told."

    def handle(self, *args: Any, **options: Any) -> None:
        count = install_default_rules()
        self.stdout.write(
            f"Installed {count} alert rules; say in the admin who is told." if count else "There are rules."
        )
