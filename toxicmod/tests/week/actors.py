"""The users of the simulated site: staff, moderators in a browser, and the platforms' webhook receiver."""

import contextlib
import hashlib
import hmac
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import requests
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Route, TimeoutError

from apps.classifier.labels import LABELS
from apps.connectors.tests.payloads import SECRET
from toxicmod.testing.browser import SIZES
from toxicmod.tests.week.site import PASSWORD, RequestCounts, Site
from toxicmod.tests.week.traffic import COMMUNITIES, Client, ConnectedPlatform, Perspective, Platform

CONSOLE = "/admin/moderation/queueitem/console/"
LIMITED, LIMITED_TO = "gwen", COMMUNITIES[0]
ROLES = {
    "ann": "moderator", "ben": "moderator", "pat": "moderator", LIMITED: "moderator",
    "lea": "lead", "eli": "engineer", "vic": "viewer",
}  # fmt: skip
CONNECTED = dict(zip(("coral", "discourse", "mastodon"), COMMUNITIES, strict=True))
DECISION_DELAY = 0.5  # seconds, as with a slow network
SHOWN_SECONDS = 0.55  # for so long after an item is shown, the page ignores decisions
# The shown item is leased, by this moderator or by another.
_IS_CLAIMED = """() => document.querySelector("#centre .lease:not([hidden])")
    || document.querySelector("#centre .notice[role=alert]")?.textContent.includes("View only")"""
MAX_SKEW = 300  # seconds
_CREATE_USERS = """
import json
from django.contrib.auth.models import Group
from apps.accounts.actions import create_api_key
from apps.connectors.actions import save_connection
from apps.connectors.models import Connection
from apps.core.permissions import SYSTEM
from apps.accounts.models import CommunityAccess, User
from apps.monitoring.models import AlertRule
users = {}
for name, role in ROLES.items():
    limited = name == LIMITED
    users[name] = User.objects.create_user(
        name, password=PASSWORD, is_staff=True, all_communities=not limited)
    users[name].groups.add(Group.objects.get(name=role))
    if limited:
        CommunityAccess.objects.create(user=users[name], community=LIMITED_TO)
keys = {name: create_api_key(actor=SYSTEM, name=f"{name}-platform")[1] for name in COMMUNITIES}
keys["perspective"] = create_api_key(actor=SYSTEM, name="perspective", review_perspective=True)[1]
for name in ("ann", "ben", "lea"):
    keys[name] = create_api_key(actor=SYSTEM, name=f"{name}-app", acts_as=users[name])[1]
for platform, community in CONNECTED.items():
    connection = Connection(platform=platform, community=community)
    options = {}
    if platform == "discourse":
        connection.base_url, options["token"] = f"{HOOK}/discourse", "token of the forum"
    save_connection(actor=SYSTEM, connection=connection, secret=SECRET, **options)
    keys[platform] = str(connection.pk)
AlertRule.objects.create(
    name="Many comments are flagged", metric="flag_share", threshold=0.4, window_hours=1,
    emails="oncall@example.org", webhook_url=HOOK + "/alerts", notification_interval_minutes=60)
print(json.dumps(keys))
"""


@dataclass
class Receipt:
    """A webhook that the receiver got."""

    delivery: str
    event: str
    payload: dict[str, Any]
    at: datetime
    status: int


@dataclass
class Receiver:
    """The webhook receiver of all platforms and a Discourse. It verifies every signature and can be down.

    Attributes:
        secrets: the signing keys that the platform knows, by id.
        gone: the paths that respond with 410.
        actions: ID and kind of action of each post that the Discourse was asked to change.
    """

    site: Site
    secrets: dict[str, str] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    down_until: datetime | None = None
    gone: set[str] = field(default_factory=set)
    actions: list[tuple[str, str]] = field(default_factory=list)
    url: str = ""

    def receive(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the response."""
        now = self.site.clock.now()
        payload = json.loads(body)
        status, response_headers = 204, {}
        if self.down_until and now < self.down_until:
            status = 503
            response_headers["Retry-After"] = str(round((self.down_until - now).total_seconds()))
        elif path in self.gone:
            status = 410
        elif path != "/alerts" and (fault := self.verify(headers.get("Webhook-Signature", ""), body)):
            self.faults.append(f"{payload.get('event')}: {fault}")
            status = 400
        self.receipts.append(
            Receipt(headers.get("Webhook-Id", ""), payload.get("event", ""), payload, now, status)
        )
        return status, response_headers

    def change_post(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of Discourse's response to an action on a post."""
        if self.down_until and self.site.clock.now() < self.down_until:
            return 503, {}
        if path == "/discourse/post_actions.json":
            post, kind = str(json.loads(body)["id"]), "flag"
        else:
            post = path.split("/")[3].partition(".")[0]
            kind = "reject" if method == "DELETE" and "/posts/" in path else "approve"
        self.actions.append((post, kind))
        return 200, {}

    def verify(self, signature: str, body: bytes) -> str:
        """Verify a signature as the documentation describes; return the error, or an empty string."""
        parts = dict(part.strip().partition("=")[::2] for part in signature.split(","))
        timestamp = parts.pop("t", "")
        if not timestamp.isdecimal() or abs(self.site.clock.time() - int(timestamp)) > MAX_SKEW:
            return f"the signature is of another time: {signature!r}"
        for key, secret in self.secrets.items():
            signed = hmac.new(secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
            if hmac.compare_digest(parts.get(key, ""), signed):
                return ""
        return f"no key that the platform knows signed it: {signature!r}, known are {sorted(self.secrets)}"

    def accepted(self) -> list[Receipt]:
        """Return the receipts with status 204."""
        return [receipt for receipt in self.receipts if receipt.status == 204]


@contextlib.contextmanager
def receiver(site: Site) -> Iterator[Receiver]:
    """Run the receiver of the platforms' webhooks."""
    hooks = Receiver(site)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.path.startswith("/discourse/"):
                status, headers = hooks.change_post(self.command, self.path, body)
            else:
                status, headers = hooks.receive(self.path, self.headers, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_DELETE = do_POST  # noqa: N815

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        hooks.url = f"http://127.0.0.1:{server.server_port}"
        yield hooks
        server.shutdown()
        thread.join()


class Staff(Client):
    """A user with an account, who opens pages and sends forms."""

    def __init__(self, site: Site, name: str, request_counts: RequestCounts, address: str) -> None:
        super().__init__(site.url, address, request_counts)
        self.name = name
        self._lock = threading.Lock()  # Checks in two threads may request pages of one user.

    def call(self, method: str, path: str, **options: Any) -> Any:
        """Send a request, one at a time; return the response."""
        with self._lock:
            return super().call(method, path, **options)

    def sign_in(self) -> None:
        """Sign in, for the first time or again."""
        self.session.cookies.clear()
        form = {"username": self.name, "password": PASSWORD, "next": "/admin/"}
        self.post("/admin/login/", form)

    def get(self, path: str, *, expect: int | tuple[int, ...] = 200) -> str:
        """Return a page's HTML."""
        return self.call("GET", path, expect=expect).text

    def send(
        self, path: str, form: dict[str, Any], *, page: str | None = None, expect: int | tuple[int, ...] = 302
    ) -> requests.Response:
        """Send a form from a page, by default that of the same path; return the response."""
        html = self.get(page or path)
        token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', html)
        assert token, f"{page or path} has no form"
        return self.call("POST", path, data=form | {"csrfmiddlewaretoken": token[1]}, expect=expect)

    def post(self, path: str, form: dict[str, Any], **options: Any) -> str:
        """Send a form as `send` does; return the target of the redirect."""
        return self.send(path, form, **options).headers.get("Location", "")


@dataclass
class Intent:
    """A moderator's action on an item, and whether it was undone."""

    by: str
    item: int
    action: str
    undone: bool = False


class ApiModerator(Platform):
    """A moderator who works on the queue through the API."""

    def __init__(
        self, site: Site, name: str, request_counts: RequestCounts, secret: str, intents: list[Intent]
    ) -> None:
        super().__init__(site.url, request_counts, secret=secret, address="203.0.113.7")
        self.name, self.intents = name, intents

    def work(
        self, count: int, *, queue: str | None = None, escalate_every: int = 0, undo_every: int = 0
    ) -> int:
        """Decide the items with the highest priority by their words; return the number of decisions."""
        for number in range(1, count + 1):
            item = self.api(
                "POST", "moderation/queue/claim", {"queue": queue} if queue else {}, expect=(200, 204)
            )
            if item is None:
                return number - 1
            self.decide(item, escalate=bool(escalate_every) and number % escalate_every == 0)
            if undo_every and number % undo_every == 0:
                self._undo_and_decide_again()
        return count

    def decide(self, item: dict[str, Any], *, escalate: bool = False, action: str = "") -> None:
        """Decide a leased item."""
        labels = labels_of(item["text"])
        action = action or ("escalate" if escalate else "reject" if labels else "approve")
        body: dict[str, Any] = {
            "action": action,
            "version": item["version"],
            "note": f"for {item['community']}",
        }
        if action != "escalate":
            body["labels"] = dict.fromkeys(labels, True)
        decision = self.api("POST", f"moderation/queue/{item['id']}/decide", body)
        self.intents.append(Intent(self.name, item["id"], action))
        self._last = decision

    def _undo_and_decide_again(self) -> None:
        intent = self.intents[-1]
        if intent.action == "escalate":
            return
        self.api("POST", f"moderation/decisions/{self._last['id']}/undo")
        intent.undone = True
        item = self.api("POST", f"moderation/queue/{intent.item}/claim")
        self.decide(item)


def labels_of(text: str) -> tuple[str, ...]:
    """Return the labels that apply to a comment of `traffic`."""
    lower = text.lower()
    labels = []
    if any(word in lower for word in ("kill you", "hurt you")):
        labels = ["toxic", "threat"]
    elif any(word in lower for word in ("filthy", "disgusting")):
        labels = ["toxic", "insult", "identity_hate"]
    elif any(word in lower for word in ("fuck", "bullshit")):
        labels = ["toxic", "obscene"]
    elif any(word in lower for word in ("idiot", "moron", "loser")):
        labels = ["toxic", "insult"]
    return tuple(labels)


class ModeratorBrowser:
    """A moderator at the console in a browser, with a slow network."""

    def __init__(
        self, browser: Browser, site: Site, name: str, intents: list[Intent], *, width: int = 1440
    ) -> None:
        self.site, self.name, self.intents = site, name, intents
        self.is_phone = width < 600
        self._last_shown: tuple[int | None, float] = None, 0.0  # the item, and when by time.monotonic
        self.errors: list[str] = []
        self.shown: list[int] = []
        self.context: BrowserContext = browser.new_context(
            base_url=site.url,
            viewport={"width": width, "height": SIZES[width]},
            has_touch=self.is_phone,
            is_mobile=self.is_phone,
            reduced_motion="reduce",
            locale="en-GB",
            # As a proxy sends them. Chromium treats 127.0.0.1 as secure, so it sends the cookies.
            extra_http_headers={"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.8"},
        )
        self.context.set_default_timeout(60_000)
        offset = site.clock.time() - time.time()
        self.context.add_init_script(
            f"{{ const real = Date.now.bind(Date), offset = {round(offset * 1000)};"
            " const Real = Date; globalThis.Date = class extends Real {"
            " constructor(...a) { a.length ? super(...a) : super(real() + offset); }"
            " static now() { return real() + offset; } }; }"
        )
        self.context.route(re.compile(r"/(decide|undo)/$"), self._delay)
        self.context.on(
            "response", lambda response: site.request_counts.add(urlsplit(response.url).path, response.status)
        )
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._record_error)
        self.page.goto(f"/admin/login/?next={CONSOLE}")
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", PASSWORD)
        self.page.press("#id_password", "Enter")
        self.page.wait_for_url(f"**{CONSOLE}**")
        self.ready()

    def _record_error(self, message: ConsoleMessage) -> None:
        # Another moderator has decided the item first, and the page shows it.
        if message.type == "error" and "409 (Conflict)" not in message.text:
            self.errors.append(message.text)

    def _delay(self, route: Route) -> None:
        self.page.wait_for_timeout(DECISION_DELAY * 1000)
        route.continue_()

    def item(self) -> int | None:
        """Return the number of the item that the page shows, or None."""
        item = self.page.evaluate("document.querySelector('#centre')?.dataset.item")
        return int(item) if item else None

    def ready(self) -> None:
        """Wait until the decisions are stored and the next item is prefetched."""
        self.page.locator("#last-decision", has_text="Saving").wait_for(state="hidden")
        self.page.wait_for_load_state("networkidle")
        self._last_shown = self.item(), time.monotonic()

    def _text(self, item: int) -> str:
        comment = self.page.locator("#comment > .text")
        shown, at = self._last_shown
        seconds = at + SHOWN_SECONDS - time.monotonic() if shown == item else SHOWN_SECONDS
        if seconds > 0:
            self.page.wait_for_timeout(seconds * 1000)
        if not comment.is_visible():
            self.page.locator("#comment > summary").click()
        return comment.inner_text()

    def decide(self, action: str | None = None) -> Intent | None:
        """Read the comment and decide it; return the action, or None if no item is left."""
        while True:
            item = self.item()
            if item is None:
                return None
            text = self._text(item)
            self.page.wait_for_function(_IS_CLAIMED)
            if not self.page.locator(".notice", has_text="View only").count():
                break
            self._continue(item)
        self.shown.append(item)
        action = action or ("reject" if labels_of(text) else "approve")
        self._tick(labels_of(text))
        self._act(action)
        intent = Intent(self.name, item, action)
        if action != "skip":
            self.intents.append(intent)
        return intent

    def _continue(self, item: int) -> None:
        """Leave an item that another moderator has leased."""
        if self.is_phone:
            self.page.locator(".release").first.tap()
        else:
            self.page.keyboard.press("j")
        self.page.wait_for_function(
            "item => document.querySelector('#centre')?.dataset.item != item", arg=str(item)
        )
        self._last_shown = self.item(), time.monotonic()

    def _tick(self, labels: tuple[str, ...]) -> None:
        """Tick the labels that apply; in a blind review also “None of these”."""
        for label in labels:
            box = self.page.locator(f"input[name=labels][value={label}]")
            if not box.is_checked():
                if self.is_phone:
                    box.dispatch_event("click")  # works at every scroll position
                else:
                    self.page.keyboard.press(str(LABELS.index(label) + 1))
        if not labels and self.page.locator("[name=none]").count():
            self.page.locator("[name=none]").check()

    def _act(self, action: str) -> None:
        if self.is_phone:
            self.page.locator(f".decision-buttons .{action}").tap()
        else:
            self.page.keyboard.press({"approve": "a", "reject": "r", "escalate": "e", "skip": "s"}[action])
        if action == "reject":
            self._choose_reason()

    def _choose_reason(self) -> None:
        """Choose a reason for a rejection, by touch or by key, and confirm it."""
        dialog = self.page.locator("#reasons")
        dialog.wait_for(state="visible")
        if self.is_phone:
            dialog.locator("label.rule").nth(3).tap()
            dialog.locator(".confirm").tap()
        else:
            self.page.keyboard.press("4")
            self.page.keyboard.press("Enter")

    def wait_for_next(self, intent: Intent) -> None:
        """Wait until another item is shown, or none."""
        self.page.wait_for_function(
            "item => document.querySelector('#centre')?.dataset.item != item", arg=str(intent.item)
        )
        self._last_shown = self.item(), time.monotonic()

    def undo(self, intent: Intent) -> None:
        """Press U right after a decision, while its request is pending; wait until the item reappears."""
        self.page.keyboard.press("u")
        intent.undone = True
        with contextlib.suppress(TimeoutError):  # the checks report which decision was undone
            self.page.locator("#status-message", has_text="Undone").wait_for(timeout=15_000)
        self.ready()

    def hold_other_languages(self, policy: int) -> None:
        """Draft a policy that sends comments in other languages to a review, and activate it."""
        self.page.goto(f"{CONSOLE}policies/{policy}/")
        self.page.check("#id_review_other_languages")
        self.page.click("button[value=save]")
        self.page.fill("[name=reason]", "The model does not score Greek.")
        self.page.click("button[value=activate]")
        self.page.locator(".status-active").first.wait_for()
        self.page.goto(CONSOLE)

    def close(self) -> None:
        """Close the browser."""
        self.ready()
        self.context.close()


@dataclass
class Cast:
    """All users of the site."""

    intents: list[Intent]
    platforms: dict[str, Platform]
    perspective: Perspective
    connected: dict[str, ConnectedPlatform]
    apps: dict[str, ApiModerator]
    staff: dict[str, Staff]
    receiver: Receiver


def create_cast(site: Site, hooks: Receiver) -> Cast:
    """Create accounts, roles and API keys for all users."""
    constants = {
        "ROLES": ROLES, "LIMITED": LIMITED, "LIMITED_TO": LIMITED_TO, "COMMUNITIES": COMMUNITIES,
        "PASSWORD": PASSWORD, "HOOK": hooks.url, "CONNECTED": CONNECTED, "SECRET": SECRET,
    }  # fmt: skip
    script = "".join(f"{name} = {value!r}\n" for name, value in constants.items()) + _CREATE_USERS
    keys = json.loads(site.manage("shell", "-v0", "-c", script).splitlines()[-1])
    request_counts = site.request_counts
    intents: list[Intent] = []
    addresses = (f"203.0.113.{number}" for number in range(20, 99))
    return Cast(
        intents=intents,
        platforms={
            name: Platform(
                site.url,
                request_counts,
                secret=keys[name],
                address=next(addresses),
                callback=f"{hooks.url}/{name}",
            )
            for name in COMMUNITIES
        },
        perspective=Perspective(
            site.url, request_counts, secret=keys["perspective"], address=next(addresses)
        ),
        connected={
            name: ConnectedPlatform(
                site.url,
                request_counts,
                platform=name,
                community=community,
                connection=keys[name],
                secret=SECRET,
                address=next(addresses),
            )
            for name, community in CONNECTED.items()
        },
        apps={
            name: ApiModerator(site, name, request_counts, keys[name], intents)
            for name in ("ann", "ben", "lea")
        },
        staff={name: Staff(site, name, request_counts, next(addresses)) for name in ("root", *ROLES)},
        receiver=hooks,
    )
