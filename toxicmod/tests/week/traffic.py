"""Generated comments, and the clients that send them through every API."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import requests

from apps.classifier.labels import LABELS
from apps.connectors.tests.payloads import (
    MASTODON_REPORT,
    REQUESTS,
    SIGNATURE_HEADERS,
    signature,
    with_text,
)
from toxicmod.tests.week.site import RequestCounts

# The name of a community is part of all its comments, to detect comments on pages of users without access.
COMMUNITIES = ("zinnia", "zugzwang", "saffron")
_THINGS = {
    "zinnia": ("seedling", "compost heap", "greenhouse", "tomato plant", "flower bed", "lawn"),
    "zugzwang": ("opening", "endgame", "tournament", "pawn structure", "clock", "rating"),
    "saffron": ("risotto", "sourdough", "marinade", "cast iron pan", "spice rack", "broth"),
}
_GROUPS = ("gay people", "Muslims", "immigrants")
_TIMES = ("last week", "yesterday", "this spring", "on Sunday", "again today", "for years")
_KIND = (
    "Thanks, the {thing} from your {community} post worked well {time}.",
    "I tried this {community} idea with my {thing} {time} and it was lovely.",
    "Does anybody in {community} know how long a {thing} takes? Mine is slow {time}.",
    "Good point about the {thing}, although I would do it differently in {community} {time}.",
    "We discussed the {thing} {time} in the {community} group and everybody agreed.",
    "My neighbour gave me a {thing} {time}, it is a nice {community} present.",
    "Could you post a photo of the {thing} for {community}? I missed it {time}.",
    "Danke für den Beitrag in {community}, mein {thing} sieht damit viel besser aus, {time}.",
    "Gracias por la foto en {community}, el {thing} de mi vecina es igual de bonito, {time}.",
)
_RUDE: dict[tuple[str, ...], tuple[str, ...]] = {
    ("toxic", "insult"): (
        "You are a complete idiot, your {thing} is the worst in {community} {time}.",
        "Shut up you stupid moron, nobody in {community} wants your {thing} {time}.",
        "What a pathetic loser you are with that {thing}, {community} laughed {time}.",
        "Du bist ein Idiot und dein {thing} ist das Letzte, ganz {community} lacht über dich, {time}.",
    ),
    ("toxic", "obscene"): (
        "What the fuck is this shit about a {thing} in {community} {time}.",
        "This fucking {thing} is bullshit, {community} told you {time}.",
    ),
    ("toxic", "threat"): (
        "I will find you and kill you for that {thing}, {community} saw you {time}.",
        "I am going to hurt you and burn your {thing} down, you and {community} {time}.",
    ),
    ("toxic", "insult", "identity_hate"): (
        "All {group} are filthy and should be thrown out of {community} with their {thing} {time}.",
        "Disgusting {group} have ruined the {thing} and {community} {time}.",
    ),
}
# In a language that the model does not score.
_UNSCORED = "Καλημέρα σε όλους στην ομάδα {community}, το {thing} είναι πολύ όμορφο και σας ευχαριστώ πολύ."
_GROUP_KIND = "Two {group} showed their {thing} in {community} {time} and it was great."
_NUMBERS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
TIMEOUT = 60


class Comment(NamedTuple):
    """A comment with the labels that apply to it."""

    text: str
    community: str
    author: str
    labels: tuple[str, ...]

    @property
    def is_rude(self) -> bool:
        return bool(self.labels)


class Writers:
    """A generator of comments, deterministic for a seed."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._number = itertools.count(1)

    def comment(self, community: str | None = None, *, rude: float = 0.2, is_scored: bool = True) -> Comment:
        """Return the next comment.

        Args:
            community: where it is written; by default anywhere.
            rude: how likely it is to be rude.
            is_scored: False for a kind comment in a language that the model does not score.
        """
        chance = self._chance
        community = community or chance.choice(COMMUNITIES)
        labels: tuple[str, ...] = ()
        if not is_scored:
            template = _UNSCORED
        elif chance.random() < rude:
            labels = chance.choice(list(_RUDE))
            template = chance.choice(_RUDE[labels])
        else:
            template = _GROUP_KIND if chance.random() < 0.1 else chance.choice(_KIND)
        text = template.format(
            thing=chance.choice(_THINGS[community]),
            community=community,
            time=chance.choice(_TIMES),
            group=chance.choice(_GROUPS),
        )
        number = next(self._number)
        text = f"{text} For the {' '.join(_NUMBERS[int(digit)] for digit in str(number))} time."
        return Comment(text, community, f"{community}-author-{chance.randrange(12)}", labels)

    def comments(self, count: int, **options: Any) -> list[Comment]:
        """Return the next comments."""
        return [self.comment(**options) for _ in range(count)]

    def rows(self, count: int, *, mistaken: bool = False) -> Iterator[list[str]]:
        """Yield labelled comments as the rows of a data set.

        Args:
            mistaken: whether kind comments have the labels instead of rude ones.
        """
        for number in range(count):
            comment = self.comment(rude=0.4)
            is_toxic = comment.is_rude != mistaken
            labels = comment.labels or ("toxic", "insult") if is_toxic else ()
            yield [f"row-{number}", comment.text, *(str(int(label in labels)) for label in LABELS)]


class Client:
    """A client that calls the site through one proxy with TLS."""

    def __init__(self, url: str, address: str, request_counts: RequestCounts) -> None:
        self.url, self.request_counts = url, request_counts
        self.session = requests.Session()
        self.session.headers.update(
            {
                "X-Forwarded-Proto": "https",
                "X-Forwarded-For": address,
                "Referer": f"{url.replace('http', 'https', 1)}/",
            }
        )

    def call(self, method: str, path: str, *, expect: int | tuple[int, ...] = 200, **options: Any) -> Any:
        """Send a request; return the response.

        Raises:
            AssertionError: its status is not the expected one.
        """
        response = self.session.request(
            method, f"{self.url}{path}", timeout=TIMEOUT, allow_redirects=False, **options
        )
        for cookie in self.session.cookies:
            cookie.secure = False  # there is no TLS between the proxy and the site
        self.request_counts.add(path, response.status_code)
        expected = (expect,) if isinstance(expect, int) else expect
        assert response.status_code in expected, (
            f"{method} {path}: {response.status_code}, not {expect}: {response.text[:600]}"
        )
        return response


class Platform(Client):
    """The server of a platform with an API key.

    Attributes:
        revisions: the texts of each moderated comment by its external ID, the newest last.
    """

    def __init__(
        self, url: str, request_counts: RequestCounts, *, secret: str, address: str, callback: str = ""
    ) -> None:
        super().__init__(url, address, request_counts)
        self.secret, self.callback = secret, callback
        self.rejected: list[dict[str, Any]] = []
        self.revisions: dict[str, list[str]] = {}
        self._number = itertools.count(1)

    def api(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Call the REST API; return the response's JSON."""
        headers = {"Authorization": f"Api-Key {self.secret}"}
        response = self.call(method, f"/api/v1/{path}", json=body, headers=headers, **options)
        return response.json() if response.content else None

    def predict(
        self, comments: list[Comment], *, path: str = "predict", **options: Any
    ) -> list[dict[str, Any]]:
        """Score comments of one community in one call."""
        if len(comments) == 1:
            body = {"text": comments[0].text, "external_id": self._external_id(comments[0])}
            return [self.api("POST", path, body | {"community": comments[0].community} | options)]
        body = {
            "texts": [comment.text for comment in comments],
            "external_ids": [self._external_id(comment) for comment in comments],
            "community": comments[0].community,
        }
        return self.api("POST", path, body | options)["results"]

    def create_moderation(self, comments: list[Comment]) -> None:
        """Score comments as a client of OpenAI's moderation API does."""
        body = {"model": "omni-moderation-latest", "input": [comment.text for comment in comments]}
        self.call("POST", "/v1/moderations", json=body, headers={"Authorization": f"Bearer {self.secret}"})

    def moderate(self, comment: Comment, external_id: str = "") -> str:
        """Moderate a comment, which is an edited one if its ID is given; return the ID."""
        external_id = external_id or self._external_id(comment)
        body = {
            "text": comment.text,
            "community": comment.community,
            "author": comment.author,
            "external_id": external_id,
            "context": {"title": f"A thread in {comment.community}"},
        } | ({"callback_url": self.callback} if self.callback else {})
        texts = self.revisions.setdefault(external_id, [])
        if texts[-1:] != [comment.text]:
            texts.append(comment.text)
        result = self.api("POST", "moderate", body)
        assert result["revision"] == len(texts), (external_id, result["revision"], texts)
        return external_id

    def feedback(self, prediction: str, comment: Comment, *, is_right: bool) -> None:
        """Send feedback with the labels that apply."""
        labels = {label: label in comment.labels for label in LABELS}
        body = {"prediction_id": prediction, "is_right": is_right, "labels": labels}
        self.api("POST", "feedback", body, expect=201)

    def _external_id(self, comment: Comment) -> str:
        return f"{comment.community}-{self.secret[3:7]}-{next(self._number)}"


class Perspective(Platform):
    """A platform that was written for the Perspective API."""

    def analyze(self, comment: Comment, **options: Any) -> dict[str, Any]:
        """Score a comment."""
        return self.call(
            "POST", f"/v1alpha1/comments:analyze?key={self.secret}", json=self._analyze(comment) | options
        ).json()

    def _analyze(self, comment: Comment) -> dict[str, Any]:
        return {
            "comment": {"text": comment.text},
            "requestedAttributes": {"TOXICITY": {}, "THREAT": {}},
            "languages": ["en"],
            "communityId": comment.community,
            "clientToken": self._external_id(comment),
        }

    def suggest(self, comment: Comment) -> None:
        """Suggest a score for a comment."""
        score = {"summaryScore": {"value": float(comment.is_rude)}}
        body = {
            "comment": {"text": comment.text},
            "attributeScores": {"TOXICITY": score},
            "communityId": comment.community,
            "clientToken": f"suggest-{next(self._number)}",
        }
        self.call("POST", f"/v1alpha1/comments:suggestscore?key={self.secret}", json=body)

    def batch(self, comments: list[Comment]) -> None:
        """Score comments as google-api-python-client does: a multipart body of requests."""
        boundary = "===============7330845974216740156=="
        parts = []
        for number, comment in enumerate(comments):
            body = json.dumps(self._analyze(comment))
            parts.append(
                f"--{boundary}\r\nContent-Type: application/http\r\nMIME-Version: 1.0\r\n"
                f"Content-Transfer-Encoding: binary\r\nContent-ID: <week + {number}>\r\n\r\n"
                f"POST /v1alpha1/comments:analyze?key={self.secret}&alt=json HTTP/1.1\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}\r\n"
            )
        parts.append(f"--{boundary}--\r\n")
        response = self.call(
            "POST",
            f"/batch?key={self.secret}",
            data="".join(parts).encode(),
            headers={"Content-Type": f'multipart/mixed; boundary="{boundary}"'},
        )
        assert response.text.count("HTTP/1.1 200 OK") == len(comments), response.text[:600]


class ConnectedPlatform(Client):
    """A Coral, Discourse or Mastodon, which sends each new and each edited comment by a signed request.

    Attributes:
        revisions: the texts of each comment by its ID, the newest last. Coral names no ID: all its comments
            have the empty one.
    """

    def __init__(
        self,
        url: str,
        request_counts: RequestCounts,
        *,
        platform: str,
        community: str,
        connection: str,
        secret: str,
        address: str,
    ) -> None:
        super().__init__(url, address, request_counts)
        self.platform, self.community, self.secret = platform, community, secret
        self.path = f"/connectors/{connection}"
        self.revisions: dict[str, list[str]] = {}
        self._requests: dict[str, Any] = {}
        self._number = itertools.count(1)

    @property
    def has_ids(self) -> bool:
        return self.platform != "coral"

    def send_comment(self, comment: Comment, identifier: str = "") -> str:
        """Send a comment, which is an edited one if its ID is given; return the ID."""
        is_edited = bool(identifier)
        data, headers = with_text(self.platform, comment.text), dict(REQUESTS[self.platform][1])
        if self.has_ids and not identifier:
            identifier = str(next(self._number))
        match self.platform:
            case "coral":
                data["action"] = "EDIT" if is_edited else "NEW"
                data["author"]["id"] = comment.author
            case "discourse":
                headers["X-Discourse-Event"] = "post_edited" if is_edited else "post_created"
                data["post"] |= {"id": int(identifier), "username": comment.author}
            case _:
                data["event"] = "status.updated" if is_edited else "status.created"
                data["object"] |= {"id": identifier, "account": {"id": comment.author}}
        self._send(data, headers)
        self._requests[identifier] = (data, headers)
        self.revisions.setdefault(identifier, []).append(comment.text)
        return identifier

    def resend(self, identifier: str) -> None:
        """Send the last request for a comment once more, as platforms do that got no response."""
        self._send(*self._requests[identifier])

    def report(self, identifier: str) -> None:
        """Report a status, as a user of Mastodon does."""
        report = MASTODON_REPORT["object"] | {"statuses": [self._requests[identifier][0]["object"]]}
        self._send(MASTODON_REPORT | {"object": report}, {})

    def _send(self, data: Any, headers: dict[str, str]) -> None:
        body = json.dumps(data).encode()
        signed = {SIGNATURE_HEADERS[self.platform]: signature(body, self.secret)}
        headers = headers | signed | {"Content-Type": "application/json"}
        self.call("POST", self.path, data=body, headers=headers, expect=(200, 204))


class Visitor(Client):
    """A visitor of the public pages."""

    def token(self, html: str) -> str:
        """Return the token of a page's forms."""
        return html.split('name="csrfmiddlewaretoken" value="')[1].split('"')[0]

    def try_comment(self, comment: Comment, *, is_right: bool | None = None) -> str:
        """Score and store a comment on the home page and give feedback; return the path of the result."""
        token = self.token(self.call("GET", "/").text)
        form = {"csrfmiddlewaretoken": token, "text": comment.text, "store": "on"}
        path = self.call("POST", "/", data=form, expect=302).headers["Location"]
        page = self.call("GET", path).text
        if is_right is not None:
            form = {"csrfmiddlewaretoken": self.token(page), "is_right": str(int(is_right))}
            self.call("POST", f"{path}/feedback", data=form, expect=302)
        return path

    def appeal(self, url: str, text: str) -> None:
        """Appeal a decision on the page whose URL its author got."""
        path = url[url.index("/appeal/") :]
        page = self.call("GET", path).text
        form = {"csrfmiddlewaretoken": self.token(page), "text": text}
        self.call("POST", path, data=form, expect=302)
