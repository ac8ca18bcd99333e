"""Documents: their links, paths, commands and settings exist."""

import ast
import json
import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from django.core.management import get_commands, load_command_class
from django.test import Client
from django.urls import resolve

from apps.moderation import actions
from apps.registry.actions import install_base_model

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE_BLOCK = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`([^`\n]+)`")
FOLDERS = ("apps/", "toxicmod/", "templates/", "static/", "ansible/", "terraform/", ".github/", ".ci/")
MANAGE = re.compile(r"(?:manage\.py|sudo toxicmod) ([a-z_]+)([^`\n|&]*)")
MODULE = re.compile(r"python -m ((?:apps|toxicmod)[\w.]+)")
MAKE = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.MULTILINE)


def _documents() -> list[str]:
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in output.split() if (ROOT / name).exists()]


DOCUMENTS = _documents()
README = (ROOT / "README.md").read_text()


def _prose(name: str) -> str:
    return CODE_BLOCK.sub("", (ROOT / name).read_text())


@cache
def _anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _broken_links(name: str) -> list[str]:
    broken = []
    for link in LINK.findall(_prose(name)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in _anchors(target.resolve())):
            broken.append(link)
    return broken


def _missing_paths(name: str) -> list[str]:
    folder = (ROOT / name).parent
    paths = [text for text in INLINE_CODE.findall(_prose(name)) if text.startswith(FOLDERS)]
    return [
        path
        for path in paths
        if " " not in path and not any((base / path.split("::")[0]).exists() for base in (ROOT, folder))
    ]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_links_and_paths_exist(name: str) -> None:
    assert not _broken_links(name)
    assert not _missing_paths(name)


def test_document_checks_find_broken_link(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("# A heading\n[here](#a-heading) [there](#another) [gone](gone.md) `apps/gone.py`\n")
    assert _broken_links(str(document)) == ["#another", "gone.md"]
    assert _missing_paths(str(document)) == ["apps/gone.py"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_management_commands_exist(name: str) -> None:
    commands = get_commands()
    for command, arguments in MANAGE.findall((ROOT / name).read_text()):
        assert command in commands, command
        application = commands[command]
        assert isinstance(application, str)
        parser = load_command_class(application, command).create_parser("manage.py", command)
        known = {option for action in parser._actions for option in action.option_strings}
        options = re.findall(r"(?<![\w-])--[a-z][a-z-]*", arguments.split(" #")[0])
        assert set(options) <= known, f"{command}: {set(options) - known}"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_python_modules_exist(name: str) -> None:
    for module in MODULE.findall((ROOT / name).read_text()):
        assert (ROOT / (module.replace(".", "/") + ".py")).exists(), module


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_make_targets_exist(name: str) -> None:
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(MAKE.findall((ROOT / name).read_text())) <= targets


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document_names_no_package_index(name: str) -> None:
    assert not re.findall(r"https?://\S*(?:pypi|npm|pythonhosted|debian)\S*", (ROOT / name).read_text())


def test_contributing_table_of_keys_names_existing_functions() -> None:
    section = (ROOT / ".github/CONTRIBUTING.md").read_text().split("\n## What happens at a key press\n")[1]
    script = (ROOT / "static/moderation/console.js").read_text()
    rows = [line.strip("|").split("|") for line in section.split("\n## ")[0].splitlines() if line[:2] == "| "]
    assert len(rows) > 6
    for _, functions, path, view, action in rows[1:]:
        for function in INLINE_CODE.findall(functions):
            assert f"function {function}(" in script
        path, view = INLINE_CODE.findall(path)[0], INLINE_CODE.findall(view)[0]
        url = f"/admin/moderation/queueitem/console/{path.replace('ID', '1')}"
        assert resolve(url).func.__wrapped__.__name__ == view
        assert all(hasattr(actions, name) for name in INLINE_CODE.findall(action))


def test_readme_has_at_most_200_lines() -> None:
    assert len(README.splitlines()) <= 200


@pytest.fixture
def requests_of_readme(db: None) -> list[tuple[str, dict[str, Any]]]:
    """Install the base model and return the path and the body of each request that the README shows."""
    install_base_model()
    calls = re.findall(r"^curl -s \"?http://[^/]+(\S+?)[\"?\s].*?-d '(\{.*?\})'", README, re.M | re.S)
    return [(path, json.loads(body)) for path, body in calls]


def test_readme_first_call_returns_response_shown(
    client: Client, requests_of_readme: list[tuple[str, dict[str, Any]]]
) -> None:
    path, body = requests_of_readme[0]
    shown = json.loads(re.search(r"^```json\n(.*?)^```", README, re.M | re.S)[1])  # type: ignore[index]
    response = client.post(path, body, content_type="application/json").json()
    assert list(response) == list(shown)
    assert response["labels"] == shown["labels"]
    assert response["probabilities"] == pytest.approx(shown["probabilities"], abs=1e-3)


def test_readme_perspective_call_returns_requested_attributes(
    client: Client, requests_of_readme: list[tuple[str, dict[str, Any]]]
) -> None:
    path, body = requests_of_readme[1]
    response = client.post(path, body, content_type="application/json").json()
    assert set(response["attributeScores"]) == set(body["requestedAttributes"])


def _variables(path: Path) -> dict[str, object]:
    """Return the environment variables that a module reads, with their defaults where these are constants."""
    variables: dict[str, object] = {}
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args or not isinstance(node.args[0], ast.Constant):
            continue
        if not re.match(r"(env\.\w+|_required|os\.environ\.\w+|os\.getenv)$", ast.unparse(node.func)):
            continue
        defaults = [keyword.value for keyword in node.keywords if keyword.arg == "default"] + node.args[1:]
        default = defaults[0].value if defaults and isinstance(defaults[0], ast.Constant) else None
        variables[str(node.args[0].value)] = default
    return variables


def _rows_of_settings() -> dict[str, str]:
    """Return the default of each variable in the table of settings."""
    section = (ROOT / "toxicmod" / "README.md").read_text().split("\n## Settings\n")[1].split("\n## ")[0]
    table = section.split("\n### ")[0]
    rows = re.findall(r"^\| `([A-Z0-9_]+)` \|.*\| ([^|]*) \|$", table, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "a variable has two rows"
    return dict(rows)


def test_settings_table_lists_variables_that_settings_and_gunicorn_read() -> None:
    modules = ("settings.py", "gunicorn.py")
    variables = {name for module in modules for name in _variables(ROOT / "toxicmod" / module)}
    assert set(_rows_of_settings()) == variables


def test_settings_table_states_defaults_of_settings() -> None:
    rows = _rows_of_settings()
    names = {True: "on", False: "off"}
    for variable, default in _variables(ROOT / "toxicmod" / "settings.py").items():
        if isinstance(default, bool):
            expected = names[default]
        elif isinstance(default, int | float):
            expected = f"{default:g}" if default < 1_000_000 else str(default)
        elif default:
            expected = f"`{default}`"
        else:
            continue
        assert rows[variable].startswith(expected), f"{variable}: {rows[variable]}, but {expected}"
