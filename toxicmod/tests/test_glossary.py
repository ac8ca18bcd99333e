"""Replaced terms of `glossary.toml` do not come back: in names, files, documents, texts of the interface."""

import ast
import io
import re
import subprocess
import tokenize
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GLOSSARY = tomllib.loads(Path(__file__).with_name("glossary.toml").read_text())
# The glossary itself and the changelog; binary files; sentences as users write them; migrations.
EXEMPT = re.compile(
    r"CHANGELOG\.md|toxicmod/tests/(glossary\.toml|test_glossary\.py|week/traffic\.py)|.*\.(npz|webp|svg)|.*/migrations/.*|"
    r"apps/moderation/examples\.py|apps/classifier/data/.*|apps/registry/base_model/.*\.json"
)
Finding = tuple[str, int, str, str]  # section of the glossary, line, what the file contains, term to use

_NAMES = {  # in languages other than Python: where a name is introduced
    ".css": r"[.#]([A-Za-z][\w-]*)",
    ".html": r"\b(?:class|id|name)=\"([^\"]*)\"|{{(.*?)}}|{%(.*?)%}",
    ".js": r"\b(?:function|const|let|var|class)\s+([\w$]+)|\(([\w$, ]*)\)\s*(?:=>|{)|([\w$]+)\s*=>",
    ".php": r"(\$\w+)",
    ".sh": r"^\s*(?:local |readonly |export )*(\w+)=|\bfor (\w+) in",
    ".tf": r"\b(?:variable|output|module|resource \"\w+\"|data \"\w+\") \"(\w+)\"|^\s*(\w+)\s*=",
    ".yml": r"^\s*(?:- )?(?:register|loop_var): (\w+)|^\s*(?:- )?(\w+):",
}
_NAMES |= {".mjs": _NAMES[".js"], ".hcl": _NAMES[".tf"], ".yaml": _NAMES[".yml"], ".j2": _NAMES[".html"]}
_COMMENTS = {
    ".css": r"/\*(.*?)\*/",
    ".html": r"{#(.*?)#}|(?:^|[>}])([^<>{}]+)",
    ".js": r"//(.*)$",
    ".md": r"(.*)",
    ".php": r"//(.*)$",
    ".yml": r"#(.*)$",
}
_COMMENTS |= dict.fromkeys([".cfg", ".hcl", ".in", ".j2", ".sh", ".tf", ".toml", ".yaml"], _COMMENTS[".yml"])
_COMMENTS |= {".mjs": _COMMENTS[".js"]}


def _python_names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of everything that a module defines; `name()` for functions."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield node.lineno, name
                yield node.lineno, f"{name}()"
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield node.lineno, name


def _python_prose(source: str, tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the lines of a module's docstrings and comments."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            first = node.body[0].lineno if docstring else 0
            yield from enumerate((docstring or "").splitlines(), first)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _matches(pattern: str | None, source: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(source.splitlines() if pattern else [], 1):
        for match in re.finditer(pattern or "", line):
            yield number, next((group for group in match.groups() if group is not None), "")


def _names(suffix: str, source: str) -> Iterator[tuple[int, str]]:
    for number, text in _matches(_NAMES.get(suffix), source):
        for name in re.findall(r"[A-Za-z_][\w-]*", re.sub(r"'[^']*'|\"[^\"]*\"", "", text)):
            yield number, name


def _section(name: str) -> dict[str, str]:
    kind, _, prefix = name.partition(" ")
    return GLOSSARY[kind][prefix] if prefix else GLOSSARY[kind]


@cache
def _term(name: str, *sections: str) -> str | None:
    """Return the term to use instead of a name, or None if the name may be used."""
    patterns = [item for section in sections for item in _section(section).items()]
    return next((term for pattern, term in patterns if re.fullmatch(pattern, name)), None)


@cache
def _any(section: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(GLOSSARY[section])})(?!\w)")


def _contained(section: str, lines: Iterable[tuple[int, str]]) -> Iterator[Finding]:
    """Yield the phrases of a section that lines of text contain."""
    for line, text in lines:
        for match in _any(section).finditer(text):
            yield section, line, match[0], _term(match[0], section) or "see the glossary"


def replaced_terms(path: str, source: str) -> list[Finding]:
    """Return the replaced terms that a file contains."""
    suffix = Path(path).suffix
    findings: list[Finding] = []
    if term := _term(Path(path).name, "files"):
        findings.append(("files", 1, path, term))
    if suffix == ".py":
        tree = ast.parse(source)
        names, prose = _python_names(tree), _python_prose(source, tree)
    else:
        names, prose = _names(suffix, source), _matches(_COMMENTS.get(suffix), source)
    sections = [
        "names",
        *(f"names_in {prefix}" for prefix in GLOSSARY["names_in"] if path.startswith(prefix)),
    ]
    for line, name in names:
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().replace("-", "_").split("_")
        if term := next(
            filter(None, [_term(name, *sections), *(_term(word, "words") for word in words)]), None
        ):
            findings.append(("names", line, name, term))
    findings += _contained("prose", prose)
    findings += _contained("phrases", enumerate(source.splitlines(), 1))
    return findings


def _files() -> list[str]:
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [name for name in names if not EXEMPT.fullmatch(name) and (ROOT / name).exists()]


def test_repository_contains_no_replaced_term() -> None:
    report = [
        f"{name}:{line}: {kind} {text!r}, use: {term}"
        for name in _files()
        for kind, line, text, term in replaced_terms(name, (ROOT / name).read_text())
    ]
    assert not report, "\n" + "\n".join(report)


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("apps/core/doors.py", "", ["apps/core/doors.py"]),
        ("apps/core/a.py", "def f(told):\n    found = each = 1\n", ["told", "told", "found", "each"]),
        (
            "apps/core/a.py",
            "def test_what_was_said(): ...\nclass QueueLane: ...",
            ["QueueLane", "test_what_was_said"],
        ),
        ("apps/core/a.py", '"""What the user was told."""\n# Whoever comes\n', ["told", "Whoever"]),
        ("apps/core/a.py", 'label = "Take back"\ntext = "she said no"\n', ["Take back"]),
        ("apps/mirror/a.py", "lag = 1\n", ["lag"]),
        ("apps/monitoring/a.py", "lag = 1\n", []),
        ("apps/moderation/a.py", "def queue(): ...\n", ["queue()"]),
        ("templates/a.html", '<div id="desk">{{ told }}</div>', ["desk", "told"]),
        ("templates/a.html", "<p>Take an example</p><p>Whoever it is</p>", ["Whoever", "Take an example"]),
        ("static/a.js", "const found = (each) => 1; // refused\n", ["found", "each", "refused"]),
        ("static/a.css", ".rooms { color: red }\n", ["rooms", ".rooms"]),
        ("ansible/a.yml", "- command: x\n  register: found\n", ["found"]),
        (
            "README.md",
            "A lane of the server. The connection was refused. It is not found.",
            ["lane", "refused"],
        ),
    ],
)
def test_replaced_terms_are_recognised(path: str, source: str, expected: list[str]) -> None:
    texts = [text for _, _, text, _ in replaced_terms(path, source)]
    assert sorted(set(texts)) == sorted(set(expected))
