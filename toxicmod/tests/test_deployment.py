"""The commands, modules, settings, paths, queues, units and log fields that the deployment names exist."""

import re
import subprocess
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.core.management import get_commands, load_command_class
from django.urls import resolve

ROOT = Path(__file__).resolve().parents[2]
ROLES = ROOT / "ansible" / "roles"
FILES = ["ansible", "terraform", "toxicmod/tests/infra", ".ci", ".github/workflows"]
FILES += ["Dockerfile", "compose.yaml", "Makefile"]
COMMAND = re.compile(
    r'(?:python manage\.py |(?:sudo|command:|^   ) toxicmod |\bmanage\(")([a-z_]+)([^\n;&|]*)', re.MULTILINE
)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
MODULE = re.compile(r"(?<![\w./-])(?:apps|toxicmod)(?:\.[a-z]\w*)+")
IMPORT = re.compile(r"from ((?:apps|toxicmod)[\w.]*) import (\w+(?:, \w+)*)")
PATH = re.compile(r"(?:[\"']|\}|127\.0\.0\.1)(/(?:api/v1/|admin/|v1alpha1/|health|ready|metrics)[\w/:-]*)")
VARIABLE = re.compile(r'["\s]([A-Z][A-Z0-9_]+)(?:"?: |=)')
WITH_VARIABLES = ["Dockerfile", "compose.yaml", "ansible/roles/app/templates/env.j2"]
WITH_VARIABLES += ["ansible/inventories/aws/terraform.py", "toxicmod/tests/infra/test_loop.py"]
WITH_VARIABLES += ["toxicmod/tests/infra/test_mirror_drills.py"]
# Variables of Python, Docker's base images and libraries.
OTHER_VARIABLES = {
    "AWS_ENDPOINT_URL", "BASE", "DJANGO_SETTINGS_MODULE", "GIT_PYTHON_REFRESH", "HOME",
    "MLFLOW_BACKEND_STORE_URI", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MPLCONFIGDIR", "NUMBA_CACHE_DIR", "PATH",
    "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_FIND_LINKS", "PIP_NO_CACHE_DIR", "PIP_NO_INDEX",
    "POSTGRES_PASSWORD", "POSTGRES_USER", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "SITE_URL",
}  # fmt: skip


def _texts() -> Iterator[tuple[str, str]]:
    """Yield name and content of each file of the deployment."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *FILES],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    for name in names:
        if (ROOT / name).exists():
            yield name, (ROOT / name).read_text()


def _matches(pattern: re.Pattern[str]) -> list[tuple[str, re.Match[str]]]:
    return [(name, match) for name, text in _texts() for match in pattern.finditer(text)]


def _exists(name: str) -> bool:
    """Return whether a dotted name is a module, without importing it, or an attribute of one."""
    parent, _, attribute = name.rpartition(".")
    try:
        return find_spec(name) is not None or hasattr(import_module(parent), attribute)
    except ModuleNotFoundError:
        return hasattr(import_module(parent), attribute)


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def test_management_commands_exist() -> None:
    commands, documented = get_commands(), set()
    for name, match in _matches(COMMAND):
        command, arguments = match.groups()
        assert command in commands, f"{name}: {command}"
        application = commands[command]
        assert isinstance(application, str)
        parser = load_command_class(application, command).create_parser("manage.py", command)
        known = {option for action in parser._actions for option in action.option_strings}
        assert set(OPTION.findall(arguments)) <= known, f"{name}: {match[0]}"
        documented.add(command)
    assert {"migrate", "install_default_alerts", "import_dataset", "mirror"} <= documented


def test_modules_and_what_is_imported_from_them_exist() -> None:
    names = {match[0]: name for name, match in _matches(MODULE)}
    for name, match in _matches(IMPORT):
        names |= {f"{match[1]}.{imported}": name for imported in match[2].split(", ")}
    assert {"toxicmod.gunicorn", "apps.training.models.TrainingRun"} <= set(names)
    assert not {name: file for name, file in names.items() if not _exists(name)}


def test_paths_of_the_site_exist() -> None:
    paths = {match[1] for _, match in _matches(PATH)}
    assert {"/health", "/ready", "/api/v1/predict_proba", "/admin/login/"} <= paths
    for path in paths:
        resolve(path)


@pytest.mark.parametrize("name", WITH_VARIABLES)
def test_variables_are_settings(name: str) -> None:
    settings_guide = (
        (ROOT / "toxicmod" / "README.md").read_text().split("\n## Settings\n")[1].split("\n## ")[0]
    )
    known = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", settings_guide)) | OTHER_VARIABLES
    variables = set(VARIABLE.findall((ROOT / name).read_text()))
    assert variables
    assert not variables - known


def test_production_sets_the_required_variables() -> None:
    required = set(re.findall(r'_required\("(\w+)"\)', (ROOT / "toxicmod" / "settings.py").read_text()))
    required |= {"ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "PRODUCTION", "TRUSTED_PROXIES"}
    for name in ("compose.yaml", "ansible/roles/app/templates/env.j2"):
        assert not required - set(VARIABLE.findall((ROOT / name).read_text()))


def test_every_queue_has_a_worker() -> None:
    queues = sorted(queue.name for queue in settings.CELERY_TASK_QUEUES)
    services = _yaml(ROOT / "compose.yaml")["services"].values()
    commands = [service.get("command", "") for service in services]
    assert sorted(re.findall(r" -Q (\S+)", " ".join(commands))) == queues
    kinds = _yaml(ROLES / "worker" / "defaults" / "main.yml")["worker_kinds"]
    assert sorted(kind["queues"] for kind in kinds) == queues


def test_restore_stops_every_unit_of_the_site() -> None:
    """A unit that still wrote to the live database during the swap would lose what it wrote."""
    units = _yaml(ROOT / "ansible" / "group_vars" / "all.yml")["database_users"]
    kinds = _yaml(ROLES / "worker" / "defaults" / "main.yml")["worker_kinds"]
    names = [*(kind["name"] for kind in kinds), "beat"]
    assert sorted(units["worker"]) == sorted(f"toxicmod-{name}.service" for name in names)
    assert units["web"][0] == "toxicmod-web.socket"
    assert "PartOf=toxicmod-web.socket" in (ROLES / "app/templates/toxicmod-web@.service.j2").read_text()


def test_every_notified_handler_exists() -> None:
    notified, handlers = set(), set()
    for path in ROLES.glob("*/tasks/*.yml"):
        for task in _yaml(path):
            if "notify" in task:
                notified.add((path.parts[-3], task["notify"]))
    for path in ROLES.glob("*/handlers/*.yml"):
        for handler in _yaml(path):
            handlers |= {(path.parts[-3], handler["name"]), (path.parts[-3], handler.get("listen"))}
    assert notified
    assert not notified - handlers


def test_log_fields_of_the_alarms_are_logged() -> None:
    fields = re.findall(r'= "(\w+_seconds)"', (ROOT / "terraform/modules/logs/main.tf").read_text())
    code = "".join(path.read_text() for path in (ROOT / "apps").glob("*/*.py"))
    assert len(fields) == 2
    assert not [field for field in fields if f'"{field}": ' not in code]
