"""Install the default policy."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.moderation import actions


class Command(ProjectCommand):
    help = """Install and activate the default policy if there is none yet.

It can be run at every start: it never changes an existing default policy."""
    examples = "  manage.py install_default_policy"

    def handle(self, *args: Any, **options: Any) -> None:
        policy = actions.install_default_policy()
        self.stdout.write(
            f"Installed {policy}." if policy else "There is a default policy already: nothing was changed."
        )
