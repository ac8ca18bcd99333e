"""Rules that hold in every file of the repository."""

import ast
import io
import itertools
import json
import re
import shlex
import subprocess
import sys
import tarfile
import tokenize
from pathlib import Path
from typing import Any

import pytest
from django.contrib import admin

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")


def _names(path: Path) -> set[str]:
    lines = path.read_text().splitlines()
    return {match[1].lower().replace("_", "-") for line in lines if (match := REQUIREMENT.match(line))}


@pytest.mark.parametrize("kind", ["requirements", "requirements-dev"])
def test_requirements_are_pinned_and_have_a_reason(kind: str) -> None:
    requirements = ROOT / f"{kind}.in"
    assert _names(requirements) <= _names(ROOT / f"{kind}.txt")
    for line in requirements.read_text().splitlines():
        assert not REQUIREMENT.match(line) or "# " in line, f"No reason for {line}"


def _files(pattern: str = "*") -> list[str]:
    command = ["git", "ls-files", "-co", "--exclude-standard", pattern]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert files
    return files


# This file contains the pattern. The original design, a reference of the benchmarks, pickles its model.
_EXEMPT = ("toxicmod/tests/test_architecture.py", "toxicmod/benchmarks/references/original.py")


def test_no_file_unpickles_or_evaluates_its_input() -> None:
    forbidden = re.compile(r"\b(pickle\.loads?|joblib\.load|yaml\.load|allow_pickle=True|eval\(|exec\()")
    violations = [
        f"{name}: {line.strip()}"
        for name in _files("*.py")
        if name not in _EXEMPT
        for line in (ROOT / name).read_text().splitlines()
        if forbidden.search(line)
    ]
    assert not violations


def test_stylesheets_use_variables_that_exist() -> None:
    of_django = Path(admin.__file__).parent / "static/admin/css"
    styles = "".join((ROOT / name).read_text() for name in _files("static/*.css"))
    defined = re.compile(r"(--[\w-]+)\s*:")
    existing = {name for path in of_django.rglob("*.css") for name in defined.findall(path.read_text())}
    assert set(re.findall(r"var\((--[\w-]+)", styles)) <= existing | set(defined.findall(styles))


def _secrets(folder: Path, *files: str) -> set[tuple[str, str]]:
    """Return the file and the hash of every string that looks like a secret."""
    command = [sys.executable, "-m", "detect_secrets", "scan", "--no-verify", *files]
    output = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return _known(json.loads(output))


def _known(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {
        (name, secret["hashed_secret"]) for name, secrets in report["results"].items() for secret in secrets
    }


def test_repository_contains_no_secret(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(f'KEY = "AKIA{"Q" * 16}"\n')
    assert _secrets(tmp_path, "settings.py"), "the scanner does not work"
    # The baseline lists passwords of tests and checksums. After a review of what is new, update it with
    # .venv/bin/detect-secrets scan --no-verify $(git ls-files) > .secrets.baseline
    baseline = ".secrets.baseline"
    reviewed = _known(json.loads((ROOT / baseline).read_text()))
    assert not _secrets(ROOT, *(name for name in _files() if name != baseline)) - reviewed


def _called_commands(source: str) -> set[str]:
    """Return the management commands that a module calls, in this process or in another."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            values = [node.func, *node.args]
        elif isinstance(node, ast.List):
            values = node.elts
        else:
            continue
        for before, after in itertools.pairwise(values):
            is_caller = isinstance(before, ast.Name) and before.id in ("call_command", "manage")
            is_caller |= isinstance(before, ast.Constant) and before.value == "manage.py"
            if is_caller and isinstance(after, ast.Constant):
                names.add(after.value)
    return names


def test_every_command_is_called_by_a_test() -> None:
    commands = {
        path.stem
        for app in ("apps", "toxicmod")
        for path in (ROOT / app).rglob("management/commands/*.py")
        if path.stem != "__init__"
    }
    called = set()
    for app in ("apps", "toxicmod"):
        for path in (ROOT / app).rglob("tests/**/test_*.py"):
            called |= _called_commands(path.read_text())
    assert "run_workers" in commands
    assert not commands - called


def test_image_and_release_exclude_tests_and_benchmarks() -> None:
    excluded = {"toxicmod/benchmarks", "toxicmod/testing"}
    assert excluded | {"**/tests"} <= set((ROOT / ".dockerignore").read_text().split())
    release = (ROOT / "ansible/roles/app/tasks/release.yml").read_text()
    (pathspec,) = re.findall(r"^ +-- (.+)$", release, re.MULTILINE)
    command = ["git", "archive", "--format", "tar", "HEAD", "--", *shlex.split(pathspec)]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as release_archive:
        names = release_archive.getnames()
    assert "toxicmod/settings.py" in names
    assert not [name for name in names if "/tests/" in name or name.startswith(tuple(excluded))]


# Issue 18 limits the code that serves requests. Docstrings, comments and blank lines do not count.
_SERVER_FILES = (
    "toxicmod/asgi.py",
    "toxicmod/batcher.py",
    "toxicmod/server.py",
    "apps/api/batching.py",
    "apps/api/error_responses.py",
)
_MAX_SERVER_LINES = 400
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def _code_lines(source: str) -> int:
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                docstrings.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    code: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    return len(code - docstrings)


def test_code_that_serves_is_at_most_400_lines() -> None:
    assert _code_lines('"""Docstring."""\n\n# Comment\nx = (\n    1\n)\n') == 3
    lines = {name: _code_lines((ROOT / name).read_text()) for name in _SERVER_FILES}
    assert sum(lines.values()) <= _MAX_SERVER_LINES, lines
