"""The house itself: what must hold across the apps."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)")


def _names(path: Path) -> set[str]:
    lines = path.read_text().splitlines()
    return {match[1].lower().replace("_", "-") for line in lines if (match := REQUIREMENT.match(line))}


@pytest.mark.parametrize("kind", ["requirements", "requirements-dev"])
def test_every_wanted_library_is_pinned_and_has_its_reason(kind: str) -> None:
    wanted = ROOT / f"{kind}.in"
    assert _names(wanted) <= _names(ROOT / f"{kind}.txt")
    for line in wanted.read_text().splitlines():
        assert not REQUIREMENT.match(line) or "# " in line, f"No reason for {line}"


def _files(pattern: str = "*") -> list[str]:
    command = ["git", "ls-files", "-co", "--exclude-standard", pattern]
    files = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert files
    return files


# This list, and the original design, which keeps its model so: it is measured, in an environment of its own.
_EXEMPT = ("toxicmod/tests/test_house.py", "toxicmod/benchmarks/references/original.py")


def test_no_file_unpickles_or_evaluates_what_it_reads() -> None:
    forbidden = re.compile(r"\b(pickle\.loads?|joblib\.load|yaml\.load|allow_pickle=True|eval\(|exec\()")
    found = [
        f"{name}: {line.strip()}"
        for name in _files("*.py")
        if name not in _EXEMPT
        for line in (ROOT / name).read_text().splitlines()
        if forbidden.search(line)
    ]
    assert not found


def _secrets(folder: Path, *files: str) -> set[tuple[str, str]]:
    """Return file and hash of all that looks like a secret."""
    command = [sys.executable, "-m", "detect_secrets", "scan", "--no-verify", *files]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    return _known(json.loads(answer))


def _known(report: dict[str, Any]) -> set[tuple[str, str]]:
    return {(name, each["hashed_secret"]) for name, found in report["results"].items() for each in found}


def test_no_secret_is_in_the_repository(tmp_path: Path) -> None:
    (tmp_path / "settings.py").write_text(f'KEY = "AKIA{"Q" * 16}"\n')
    assert _secrets(tmp_path, "settings.py"), "the scanner finds nothing"
    # Passwords of tests and checksums of our own. Anew, once you have looked at what was found:
    # .venv/bin/detect-secrets scan --no-verify $(git ls-files) > .secrets.baseline
    baseline = ".secrets.baseline"
    looked_at = _known(json.loads((ROOT / baseline).read_text()))
    assert not _secrets(ROOT, *(name for name in _files() if name != baseline)) - looked_at


def test_every_command_has_a_test() -> None:
    commands = {
        path.stem
        for path in ROOT.glob("*/**/management/commands/*.py")
        if path.stem != "__init__" and ".venv" not in path.parts
    }
    tests = "".join(
        path.read_text() for app in ("apps", "toxicmod") for path in (ROOT / app).rglob("tests/*.py")
    )
    assert not sorted(name for name in commands if f'"{name}"' not in tests)
