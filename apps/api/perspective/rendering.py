"""JSON responses in the format that the query parameters `fields`, `prettyPrint` and `callback` select."""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse

from apps.api.perspective.exceptions import PerspectiveError, bad_request

CONTENT_TYPE = "application/json; charset=UTF-8"
_CALLBACK = re.compile(r"[A-Za-z_$][\w$.]{0,99}\Z", re.ASCII)
_INDENTED = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_TOKEN = re.compile(r"[\w@$*-]+|[(),/.]")
_SCORE = {"value": None, "type": None}
# The fields of all responses; `*` stands for the keys of a map, None for a leaf.
RESPONSE_FIELDS: dict[str, Any] = {
    "attributeScores": {
        "*": {"summaryScore": _SCORE, "spanScores": {"begin": None, "end": None, "score": _SCORE}}
    },
    "languages": None,
    "detectedLanguages": None,
    "requestedLanguages": None,
    "clientToken": None,
}
_MAX_MASK = 1_000  # characters

Mask = dict[str, Any]


def parse_mask(mask: str, fields: Mapping[str, Any] = RESPONSE_FIELDS) -> Mask:
    """Return a field mask such as `a/b,c(d,e)` as nested dictionaries; an empty one selects a whole field.

    Names may be in snake_case.

    Args:
        fields: the fields of the response.

    Raises:
        PerspectiveError: the mask is malformed, or selects a field that no response has.
    """
    tokens = _TOKEN.findall(mask)
    if len(mask) > _MAX_MASK or "".join(tokens) != re.sub(r"\s", "", mask):
        raise _bad_mask(mask)
    tree, rest = _parse_list(tokens, mask)
    if rest:
        raise _bad_mask(mask)
    _validate_mask(tree, fields, mask)
    return tree


def _parse_list(tokens: list[str], mask: str) -> tuple[Mask, list[str]]:
    tree: Mask = {}
    while True:
        node = tree
        while True:
            if not tokens or tokens[0] in "(),/.":
                raise _bad_mask(mask)
            # A mask that selects a whole field and parts of it selects the whole field.
            parent, name = node, _camel(tokens[0])
            is_whole = name in parent and not parent[name]
            node, tokens = parent.setdefault(name, {}), tokens[1:]
            if not tokens or tokens[0] not in "/.":
                break
            tokens = tokens[1:]
        if tokens and tokens[0] == "(":
            inner, tokens = _parse_list(tokens[1:], mask)
            if not tokens or tokens[0] != ")":
                raise _bad_mask(mask)
            tokens = tokens[1:]
            if not is_whole:
                node.update(inner)
        else:
            node.clear()
        if not tokens or tokens[0] != ",":
            return tree, tokens
        tokens = tokens[1:]


def _camel(name: str) -> str:
    """Return a name in snake_case in lowerCamelCase; the names of attributes are in capitals and stay."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), name) if name.islower() else name


def _validate_mask(tree: Mask, fields: Any, mask: str) -> None:
    for name, inner in tree.items():
        if isinstance(fields, list):
            fields = {"*": None}
        if not isinstance(fields, Mapping) or not (name == "*" or name in fields or "*" in fields):
            raise _bad_mask(mask)
        below = fields.values() if name == "*" else [fields[name] if name in fields else fields["*"]]
        if inner:
            for inner_fields in below:
                _validate_mask(inner, inner_fields, mask)


def _bad_mask(mask: str) -> PerspectiveError:
    excerpt = mask[:100]
    description = f"Error expanding 'fields' parameter. Cannot find matching fields for path '{excerpt}'."
    return bad_request(
        "Request contains an invalid argument.", [{"field": excerpt, "description": description}]
    )


def select(value: Any, mask: Mask) -> Any:
    """Return the part of a JSON value that a mask selects; a mask applies to each member of a list."""
    if not mask:
        return value
    if isinstance(value, list):
        return [select(item, mask) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: select(item, mask[name] if name in mask else mask["*"])
        for name, item in value.items()
        if name in mask or "*" in mask
    }


def _parameter(request: HttpRequest, name: str, default: str = "") -> str:
    """Return a system parameter, which may have a dollar sign before its name (`$fields`)."""
    return request.GET.get(name) or request.GET.get(f"${name}") or default


def json_response(
    request: HttpRequest,
    body: Mapping[str, Any],
    status: int = 200,
    fields: Mapping[str, Any] = RESPONSE_FIELDS,
) -> HttpResponse:
    """Return a response in the format that the query parameters ask for.

    Args:
        fields: the fields of the body that the parameter `fields` may select if the status is 200.

    Raises:
        PerspectiveError: the parameter `fields` is invalid.
    """
    if status == 200 and (mask := _parameter(request, "fields") or request.META.get("HTTP_X_GOOG_FIELDMASK")):
        body = select(body, parse_mask(mask, fields))
    if _parameter(request, "prettyPrint", "true").lower() in ("false", "0"):
        text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    else:
        text = orjson.dumps(body, option=_INDENTED)
    callback = _parameter(request, "callback")
    if _CALLBACK.match(callback):
        script = f"// API callback\n{callback}({text.decode().strip()});"
        return HttpResponse(script, status=status, content_type="text/javascript; charset=UTF-8")
    return HttpResponse(text, status=status, content_type=CONTENT_TYPE)


def status_error(request: HttpRequest, status: int, message: str) -> HttpResponse:
    """Return an error response for a request that no view of the API handles."""
    name = {500: "INTERNAL", 503: "UNAVAILABLE"}.get(status, "INVALID_ARGUMENT")
    return error_response(request, PerspectiveError(status, name, message))


def error_response(request: HttpRequest, error: PerspectiveError) -> HttpResponse:
    """Return the response for an error."""
    response = json_response(request, error.body, error.code)
    if error.retry_after is not None:
        response["Retry-After"] = str(math.ceil(error.retry_after))
    if error.code == 401:
        response["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    return response
