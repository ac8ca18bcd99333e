"""Answers as Google's servers write them: partial responses, pretty printing, JSONP."""

import math
import re
from collections.abc import Mapping
from typing import Any

import orjson
from django.http import HttpRequest, HttpResponse

from apps.api.perspective.errors import PerspectiveError, bad_request

CONTENT_TYPE = "application/json; charset=UTF-8"
_CALLBACK = re.compile(r"[A-Za-z_$][\w$.]{0,99}\Z", re.ASCII)
_INDENTED = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
_TOKEN = re.compile(r"[\w@$*-]+|[(),/.]")
_SCORE = {"value": None, "type": None}
# The fields of every answer; `*` stands for the keys of a map, None for a leaf.
ANSWER: dict[str, Any] = {
    "attributeScores": {
        "*": {"summaryScore": _SCORE, "spanScores": {"begin": None, "end": None, "score": _SCORE}}
    },
    "languages": None,
    "detectedLanguages": None,
    "requestedLanguages": None,
    "clientToken": None,
}
_MAX_MASK = 1_000

Mask = dict[str, Any]


def parse_mask(mask: str) -> Mask:
    """Return `a/b,c(d,e)` as nested dictionaries; an empty one selects everything below.

    Raises:
        PerspectiveError: the mask is malformed or names what no answer has.
    """
    tokens = _TOKEN.findall(mask)
    if len(mask) > _MAX_MASK or "".join(tokens) != re.sub(r"\s", "", mask):
        raise _bad_mask(mask)
    tree, rest = _parse_list(tokens, mask)
    if rest:
        raise _bad_mask(mask)
    _check(tree, ANSWER, mask)
    return tree


def _parse_list(tokens: list[str], mask: str) -> tuple[Mask, list[str]]:
    tree: Mask = {}
    while True:
        node = tree
        while True:
            if not tokens or tokens[0] in "(),/.":
                raise _bad_mask(mask)
            # Selecting a whole field outweighs selecting parts of it.
            parent, name = node, tokens[0]
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


def _check(tree: Mask, fields: Mapping[str, Any] | None, mask: str) -> None:
    for name, inner in tree.items():
        if fields is None or not (name == "*" or name in fields or "*" in fields):
            raise _bad_mask(mask)
        below = fields.values() if name == "*" else [fields[name] if name in fields else fields["*"]]
        if inner:
            for each in below:
                _check(inner, each, mask)


def _bad_mask(mask: str) -> PerspectiveError:
    shown = mask[:100]
    description = f"Error expanding 'fields' parameter. Cannot find matching fields for path '{shown}'."
    return bad_request(
        "Request contains an invalid argument.", [{"field": shown, "description": description}]
    )


def select(value: Any, mask: Mask) -> Any:
    """Return the part of a JSON value that a mask selects; lists are passed through to their members."""
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


def answer(request: HttpRequest, body: Mapping[str, Any], status: int = 200) -> HttpResponse:
    """Return a body as the query parameters ask for it; only a success is cut down to `fields`.

    Raises:
        PerspectiveError: `fields` is wrong.
    """
    asked = request.GET
    if status == 200 and (fields := asked.get("fields")):
        body = select(body, parse_mask(fields))
    if asked.get("prettyPrint", "true").lower() in ("false", "0"):
        text = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY)
    else:
        text = orjson.dumps(body, option=_INDENTED)
    callback = asked.get("callback", "")
    if _CALLBACK.match(callback):
        script = f"// API callback\n{callback}({text.decode().strip()});"
        return HttpResponse(script, status=status, content_type="text/javascript; charset=UTF-8")
    return HttpResponse(text, status=status, content_type=CONTENT_TYPE)


def refusal(request: HttpRequest, error: PerspectiveError) -> HttpResponse:
    """Return an error as a response."""
    response = answer(request, error.body, error.code)
    if error.retry_after is not None:
        response["Retry-After"] = str(math.ceil(error.retry_after))
    return response
