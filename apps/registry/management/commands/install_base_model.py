"""Install the shipped model."""

from typing import Any

from apps.core.management import ProjectCommand
from apps.registry import actions


class Command(ProjectCommand):
    help = """Install the model that comes with this release as champion, if there is no champion yet.

It can be run at every start: it changes nothing if there is a champion."""
    examples = "  manage.py install_base_model"

    def handle(self, *args: Any, **options: Any) -> None:
        version = actions.install_base_model()
        if version:
            self.stdout.write(f"Installed the base model as {version}, the champion.")
        else:
            self.stdout.write("There is a champion already: nothing was changed.")
