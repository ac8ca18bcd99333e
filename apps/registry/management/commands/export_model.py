"""Write a model version to a folder."""

from pathlib import Path
from typing import Any

from django.core.management.base import CommandParser

from apps.core.management import ProjectCommand
from apps.registry import actions
from apps.registry.management.base import VERSION_HELP, find_version


class Command(ProjectCommand):
    help = """Write a model version to a folder: manifest.json, weights.npz, MODEL_CARD.md, and the
evaluation model in `evaluation/`.

install_base_model installs a folder of this format: apps/registry/base_model."""
    examples = """  manage.py export_model champion backup/champion
  manage.py export_model v1 apps/registry/base_model"""
    expected_errors = (OSError,)

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("version", help=VERSION_HELP)
        parser.add_argument(
            "folder", type=Path, help="The folder; it is created, and files in it are replaced."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        version = find_version(options["version"])
        actions.export_version(version=version, folder=options["folder"])
        self.stdout.write(f"Wrote {version} to {options['folder']}.")
