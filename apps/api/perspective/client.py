"""A client of the Perspective API, for `manage.py compare_perspective`."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import requests

from apps.api.perspective.attributes import label_of
from apps.api.perspective.comparison import ScoredRow
from apps.api.perspective.exceptions import ComparisonError
from apps.core.retries import back_off

PRODUCTION = ("TOXICITY", "SEVERE_TOXICITY", "IDENTITY_ATTACK", "INSULT", "PROFANITY", "THREAT")
_MAX_ATTEMPTS = 6
_FIRST_WAIT, _LONGEST_WAIT = timedelta(seconds=1), timedelta(minutes=1)


class PerspectiveClient:
    """Requests the scores of the six production attributes, with a rate limit and retries."""

    def __init__(self, url: str, key: str, per_second: float, log: Callable[[str], None]) -> None:
        self._url = f"{url.rstrip('/')}/v1alpha1/comments:analyze"
        self._key = key
        self._pause = 1 / per_second
        self._log = log
        self._next_request = 0.0  # monotonic time
        self._session = requests.Session()
        self.rejected = 0  # comments

    def add_scores(self, rows: Iterable[ScoredRow], save: Path | None) -> Iterator[ScoredRow]:
        """Yield the rows; request scores for rows without scores, and leave out those that can't be scored.

        Args:
            save: a file to which each response is appended as a line of JSON, in a format that `read`
                accepts.

        Raises:
            ComparisonError: the service rejects the API key or can't be reached.
        """
        for row in rows:
            if row.scores:
                yield row
            elif (scores := self._scores(row.text)) is not None:
                if save:
                    with save.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({"text": row.text, **scores}, ensure_ascii=False) + "\n")
                yield ScoredRow(row.text, scores)
            else:
                self.rejected += 1

    def _scores(self, text: str) -> dict[str, float] | None:
        body: dict[str, Any] = {
            "comment": {"text": text},
            "requestedAttributes": {name: {} for name in PRODUCTION},
            "languages": ["en"],
            "doNotStore": True,
        }
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            time.sleep(max(0.0, self._next_request - time.monotonic()))
            self._next_request = time.monotonic() + self._pause
            try:
                # A URL may appear in a log, so the key is in a header.
                response = self._session.post(
                    self._url, json=body, headers={"X-Goog-Api-Key": self._key}, timeout=30
                )
            except requests.RequestException as error:
                reason = type(error).__name__
            else:
                if response.ok:
                    scores = response.json()["attributeScores"]
                    return {
                        name: score["summaryScore"]["value"]
                        for name, score in scores.items()
                        if label_of(name) and "summaryScore" in score
                    }
                reason = _message(response)
                if response.status_code == 400 and "API key" not in reason:
                    return None  # the comment is empty or too long
                if response.status_code not in (429, 500, 502, 503, 504):
                    raise ComparisonError(f"{self._url} returned {response.status_code}: {reason}")
            wait = back_off(attempt, first=_FIRST_WAIT, longest=_LONGEST_WAIT).total_seconds()
            self._log(f"{self._url}: {reason}; trying again in {wait:.0f} s.")
            time.sleep(wait)
        raise ComparisonError(f"{self._url} did not respond: {reason}. Start again with the file of --save.")


def _message(response: requests.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.reason
