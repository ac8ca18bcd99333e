"""Asks the real Perspective API, or whatever answers like it, while it still does."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import requests

from apps.api.perspective.attributes import label_of
from apps.api.perspective.comparison import ComparisonError, Row

PRODUCTION = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
_TRIES = 6


class Upstream:
    """Asks for the six production attributes of a comment, at most so many times a second."""

    def __init__(self, url: str, key: str, per_second: float, say: Callable[[str], None]) -> None:
        self._url = f"{url.rstrip('/')}/v1alpha1/comments:analyze"
        self._key = key
        self._pause = 1 / per_second
        self._say = say
        self._next = 0.0
        self._session = requests.Session()
        self.refused = 0

    def rows(self, rows: Iterable[Row], save: Path | None) -> Iterator[Row]:
        """Yield the rows, those without scores with the service's; what it refuses to score is left out.

        Args:
            save: where to append what it answered, one JSON object a line; the file can be compared again.

        Raises:
            ComparisonError: the service refuses the key or can't be reached.
        """
        for row in rows:
            if row.scores:
                yield row
            elif (scores := self._scores(row.text)) is not None:
                if save:
                    with save.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"text": row.text, **scores}, ensure_ascii=False) + "\n")
                yield Row(row.text, scores)
            else:
                self.refused += 1

    def _scores(self, text: str) -> dict[str, float] | None:
        asked: dict[str, Any] = {
            "comment": {"text": text},
            "requestedAttributes": {name: {} for name in PRODUCTION},
            "languages": ["en"],
            "doNotStore": True,
        }
        for attempt in range(_TRIES):
            time.sleep(max(0.0, self._next - time.monotonic()))
            self._next = time.monotonic() + self._pause
            try:
                # The key goes in a header: an address may end up in a log.
                answer = self._session.post(
                    self._url, json=asked, headers={"X-Goog-Api-Key": self._key}, timeout=30
                )
            except requests.RequestException as error:
                reason = type(error).__name__
            else:
                if answer.ok:
                    scores = answer.json()["attributeScores"]
                    return {
                        name: found["summaryScore"]["value"]
                        for name, found in scores.items()
                        if label_of(name) and "summaryScore" in found
                    }
                reason = _message(answer)
                if answer.status_code == 400 and "API key" not in reason:
                    return None  # this comment's own fault: empty, too long
                if answer.status_code not in (429, 500, 502, 503, 504):
                    raise ComparisonError(f"{self._url} answers {answer.status_code}: {reason}")
            self._say(f"{self._url}: {reason}; trying again in {2**attempt} s.")
            time.sleep(2**attempt)
        raise ComparisonError(f"{self._url} did not answer: {reason}. Start again with the file of --save.")


def _message(answer: requests.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.reason
