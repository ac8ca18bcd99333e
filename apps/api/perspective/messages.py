"""Parses request bodies by the rules of proto3's JSON mapping (protobuf.dev/programming-guides/json).

The schemas of the discovery document define the fields. As in Google's APIs, names are in lowerCamelCase or
snake_case, null means "not set", numbers and booleans may be strings, a value stands for a list of one, and
an enumeration's value may be a number.
`actions` validates the values of enumerations, because their error messages differ.
"""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rest_framework.exceptions import ParseError

from apps.api.parsers import parse_json
from apps.api.perspective.exceptions import PerspectiveError, bad_request, invalid_json
from apps.api.problems import MAX_ERRORS

DISCOVERY: dict[str, Any] = json.loads((Path(__file__).parent / "discovery.json").read_text())
_PACKAGE = "type.googleapis.com/google.commentanalyzer.v1alpha1"
_MAX_EXCERPT = 200  # characters of an invalid value that an error message repeats
_TYPES = {"string": "TYPE_STRING", "boolean": "TYPE_BOOL", "number": "TYPE_FLOAT", "integer": "TYPE_INT32"}


class Violations:
    """Violations of the schema: the first MAX_ERRORS with a description, further ones only counted."""

    def __init__(self) -> None:
        self.described: list[dict[str, str]] = []
        self.more = 0

    def error(self) -> PerspectiveError:
        """Return the error that lists the violations."""
        lines = [violation["description"] for violation in self.described]
        if self.more:
            lines.append(f"And {self.more} more errors.")
        return bad_request("\n".join(lines), self.described)


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: f"_{match[1].lower()}", name)


# By schema: each accepted spelling with the field's name, its name in snake_case, and its specification.
_FIELDS: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    schema: {
        spelling: (name, _snake(name), field)
        for name, field in specification["properties"].items()
        for spelling in (name, _snake(name))
    }
    for schema, specification in DISCOVERY["schemas"].items()
}


def _clean(value: Any) -> Any:
    """Replace NUL and lone surrogates, which PostgreSQL can't store, with U+FFFD; offsets stay the same."""
    if isinstance(value, str):
        text = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return value


def parse(body: bytes, schema: str) -> dict[str, Any]:
    """Return the fields of a body by their lowerCamelCase names; an empty body is an empty message.

    Raises:
        PerspectiveError: the body is not JSON or doesn't fit the schema; the error lists the violations.
    """
    if not body.strip():
        return {}
    try:
        value = parse_json(body)
        if b"\\u" in body:  # only an escape can contain NUL or a lone surrogate
            value = _clean(value)
    except ParseError as error:
        raise invalid_json(str(error.detail)) from error
    except RecursionError as error:
        raise invalid_json("Message too deep.") from error
    if not isinstance(value, dict):
        raise invalid_json('Unknown name "": Root element must be a message.')
    violations = Violations()
    message = _message(value, schema, "", violations)
    if violations.described:
        raise violations.error()
    return message


def _message(value: dict[str, Any], schema: str, path: str, violations: Violations) -> dict[str, Any]:
    fields = _FIELDS[schema]
    message = {}
    for spelling, item in value.items():
        if spelling not in fields:
            location = f" at '{path}'" if path else ""
            _add(
                violations,
                path,
                f'Invalid JSON payload received. Unknown name "{spelling[:_MAX_EXCERPT]}"{location}: '
                "Cannot find field.",
            )
        elif item is not None:
            name, snake_name, field = fields[spelling]
            inner = f"{path}.{snake_name}" if path else snake_name
            message[name] = _value(item, field, inner, violations)
    return message


def _value(value: Any, field: dict[str, Any], path: str, violations: Violations) -> Any:
    kind = field.get("type", "message")
    if kind == "array":
        items = value if isinstance(value, list) else [value]
        return [
            _value(item, field["items"], f"{path}[{index}]", violations) for index, item in enumerate(items)
        ]
    if isinstance(value, list):
        name = path.rpartition(".")[2]
        reason = f'Unknown name "{name}": Proto field is not repeating, cannot start list.'
        return _add(violations, path, f"Invalid JSON payload received. {reason}")
    if kind == "object":
        if not isinstance(value, dict):
            return _add_invalid_value(violations, path, "Map", value)
        inner = field["additionalProperties"]
        return {  # clients send null for an attribute without parameters
            key: _value({} if item is None else item, inner, f"{path}[{index}].value", violations)
            for index, (key, item) in enumerate(value.items())
        }
    if schema := field.get("$ref"):
        if not isinstance(value, dict):
            return _add_invalid_value(violations, path, f"{_PACKAGE}.{schema}", value)
        return _message(value, schema, path, violations)
    if kind == "number" and isinstance(value, dict) and set(value) == {"value"}:
        value = value["value"]  # a FloatValue as an object
    if isinstance(value, dict):
        reason = f"Invalid value at '{path}' ({_TYPES[kind]}), Starting an object on a scalar field"
        return _add(violations, path, reason)
    if names := field.get("enum"):
        value = _enumeration(value, names)
    converted = _CONVERTERS[kind](value)
    return _add_invalid_value(violations, path, _TYPES[kind], value) if converted is None else converted


def _enumeration(value: Any, names: Sequence[str]) -> Any:
    """Return the name of an enumeration's value, which may be in lower case or a number (proto3 JSON)."""
    if isinstance(value, str) and not value.isascii():
        return value
    if isinstance(value, str) and not value.isdigit():
        return value.upper() if value.upper() in names else value
    number = _integer(value)
    return value if number is None else names[number] if 0 <= number < len(names) else str(number)


def _string(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _boolean(value: Any) -> bool | None:
    if isinstance(value, str):
        return {"true": True, "false": False}.get(value)
    return value if isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _integer(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number.is_integer() and -(2**31) <= number < 2**31 else None


_CONVERTERS = {"string": _string, "boolean": _boolean, "number": _number, "integer": _integer}


def _add_invalid_value(violations: Violations, path: str, kind: str, value: Any) -> None:
    if len(violations.described) == MAX_ERRORS:
        violations.more += 1
        return
    excerpt = json.dumps(value, ensure_ascii=False)[:_MAX_EXCERPT]
    _add(violations, path, f"Invalid value at '{path}' ({kind}), {excerpt}")


def _add(violations: Violations, path: str, description: str) -> None:
    if len(violations.described) == MAX_ERRORS:
        violations.more += 1
        return
    violation = {"description": description}
    violations.described.append({"field": path, **violation} if path else violation)
