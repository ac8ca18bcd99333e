"""The people of the week: staff, moderators in a browser, and the platforms' webhook receiver."""

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
from toxicmod.testing.browser import SIZES
from toxicmod.tests.week.site import PASSWORD, Site, Tally
from toxicmod.tests.week.traffic import COMMUNITIES, Client, Perspective, Platform

CONSOLE = "/admin/moderation/queueitem/console/"
LIMITED, LIMITED_TO = "gwen", COMMUNITIES[0]
ROLES = {
    "ann": "moderator", "ben": "moderator", "pat": "moderator", LIMITED: "moderator",
    "lea": "lead", "eli": "engineer", "vic": "viewer",
}  # fmt: skip
SLOW = 0.5  # seconds that a decision is on its way, as on a train
MAX_SKEW = 300  # seconds
_HIRE = """
import json
from django.contrib.auth.models import Group
from apps.accounts.actions import create_api_key
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
AlertRule.objects.create(
    name="Many comments are flagged", metric="flag_share", threshold=0.4, window_hours=1,
    emails="oncall@example.org", webhook_url=HOOK + "/alerts", notification_interval_minutes=60)
print(json.dumps(keys))
"""


@dataclass
class Receipt:
    """A webhook that came in."""

    delivery: str
    event: str
    payload: dict[str, Any]
    at: datetime
    status: int


@dataclass
class Receiver:
    """The platforms' end of the webhooks: verifies every signature and can be down.

    `secrets` are the signing keys that the platform knows, by their ids.
    """

    site: Site
    secrets: dict[str, str] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    down_until: datetime | None = None
    gone: set[str] = field(default_factory=set)
    url: str = ""

    def take(self, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the answer."""
        now = self.site.clock.now()
        payload = json.loads(body)
        status, answer = 204, {}
        if self.down_until and now < self.down_until:
            status = 503
            answer["Retry-After"] = str(round((self.down_until - now).total_seconds()))
        elif path in self.gone:
            status = 410
        elif path != "/alerts" and (fault := self.verify(headers.get("Webhook-Signature", ""), body)):
            self.faults.append(f"{payload.get('event')}: {fault}")
            status = 400
        self.receipts.append(
            Receipt(headers.get("Webhook-Id", ""), payload.get("event", ""), payload, now, status)
        )
        return status, answer

    def verify(self, signature: str, body: bytes) -> str:
        """Return what is wrong with a signature, or nothing: as the documentation tells platforms to."""
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
        """Return what was taken."""
        return [receipt for receipt in self.receipts if receipt.status == 204]


@contextlib.contextmanager
def receiver(site: Site) -> Iterator[Receiver]:
    """Run the receiver of the platforms' webhooks."""
    found = Receiver(site)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, headers = found.take(self.path, self.headers, body)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        found.url = f"http://127.0.0.1:{server.server_port}"
        yield found
        server.shutdown()
        thread.join()


class Staff(Client):
    """Somebody with an account, who opens pages and sends forms."""

    def __init__(self, site: Site, name: str, tally: Tally, address: str) -> None:
        super().__init__(site.url, address, tally)
        self.name = name
        self.sign_in()

    def sign_in(self) -> None:
        """Sign in, as every morning."""
        self.session.cookies.clear()
        form = {"username": self.name, "password": PASSWORD, "next": "/admin/"}
        self.post("/admin/login/", form)

    def get(self, path: str, *, expect: int | tuple[int, ...] = 200) -> str:
        """Return a page's HTML."""
        return self.call("GET", path, expect=expect).text

    def send(
        self, path: str, form: dict[str, Any], *, page: str | None = None, expect: int | tuple[int, ...] = 302
    ) -> requests.Response:
        """Send a form from a page, by default that of the same path; return the answer."""
        html = self.get(page or path)
        found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', html)
        assert found, f"{page or path} has no form"
        return self.call("POST", path, data=form | {"csrfmiddlewaretoken": found[1]}, expect=expect)

    def post(self, path: str, form: dict[str, Any], **options: Any) -> str:
        """Send a form as `send` does; return where the answer leads to."""
        return self.send(path, form, **options).headers.get("Location", "")


@dataclass
class Intent:
    """What a moderator did to an item, and whether it was taken back."""

    by: str
    item: int
    action: str
    undone: bool = False


class ApiModerator(Platform):
    """A moderator whose own app works on the queue through the API."""

    def __init__(self, site: Site, name: str, tally: Tally, secret: str, intents: list[Intent]) -> None:
        super().__init__(site.url, tally, secret=secret, address="203.0.113.7")
        self.name, self.intents = name, intents

    def work(
        self, count: int, *, queue: str | None = None, escalate_every: int = 0, undo_every: int = 0
    ) -> int:
        """Decide what is most pressing, by what the comments say; return how many there were."""
        for number in range(1, count + 1):
            item = self.api(
                "POST", "moderation/queue/claim", {"queue": queue} if queue else {}, expect=(200, 204)
            )
            if item is None:
                return number - 1
            self.decide(item, escalate=bool(escalate_every) and number % escalate_every == 0)
            if undo_every and number % undo_every == 0:
                self._undo_and_decide_anew()
        return count

    def decide(self, item: dict[str, Any], *, escalate: bool = False, action: str = "") -> None:
        """Decide an item that is held."""
        labels = labels_of(item["text"])
        action = action or ("escalate" if escalate else "reject" if labels else "approve")
        body: dict[str, Any] = {
            "action": action,
            "version": item["version"],
            "note": f"for {item['community']}",
        }
        if action != "escalate":
            body["labels"] = dict.fromkeys(labels, True)
        decided = self.api("POST", f"moderation/queue/{item['id']}/decide", body)
        self.intents.append(Intent(self.name, item["id"], action))
        self._last = decided

    def _undo_and_decide_anew(self) -> None:
        intent = self.intents[-1]
        if intent.action == "escalate":
            return
        self.api("POST", f"moderation/decisions/{self._last['id']}/undo")
        intent.undone = True
        item = self.api("POST", f"moderation/queue/{intent.item}/claim")
        self.decide(item)


def labels_of(text: str) -> tuple[str, ...]:
    """Return what a sensible person sees in a comment of this week."""
    lower = text.lower()
    found = []
    if any(word in lower for word in ("kill you", "hurt you")):
        found = ["toxic", "threat"]
    elif any(word in lower for word in ("filthy", "disgusting")):
        found = ["toxic", "insult", "identity_hate"]
    elif any(word in lower for word in ("fuck", "bullshit")):
        found = ["toxic", "obscene"]
    elif any(word in lower for word in ("idiot", "moron", "loser")):
        found = ["toxic", "insult"]
    return tuple(found)


class ModeratorBrowser:
    """A moderator at the console in a browser, whose decisions are answered slowly."""

    def __init__(
        self, browser: Browser, site: Site, name: str, intents: list[Intent], *, width: int = 1440
    ) -> None:
        self.site, self.name, self.intents = site, name, intents
        self.is_phone = width < 600
        self.errors: list[str] = []
        self.shown: list[int] = []
        self.context: BrowserContext = browser.new_context(
            base_url=site.url,
            viewport={"width": width, "height": SIZES[width]},
            has_touch=self.is_phone,
            is_mobile=self.is_phone,
            reduced_motion="reduce",
            locale="en-GB",
            # The proxy's say. Chromium takes this address for a secure one, so the cookies are sent.
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
        self.context.route(re.compile(r"/(decide|undo)/$"), self._slowly)
        self.context.on("response", lambda answer: site.tally.add(urlsplit(answer.url).path, answer.status))
        self.page: Page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._note_error)
        self.page.goto(f"/admin/login/?next={CONSOLE}")
        self.page.fill("#id_username", name)
        self.page.fill("#id_password", PASSWORD)
        self.page.press("#id_password", "Enter")
        self.page.wait_for_url(f"**{CONSOLE}**")
        self.ready()

    def _note_error(self, said: ConsoleMessage) -> None:
        # Another moderator was faster: the page says so.
        if said.type == "error" and "409 (Conflict)" not in said.text:
            self.errors.append(said.text)

    def _slowly(self, route: Route) -> None:
        self.page.wait_for_timeout(SLOW * 1000)
        route.continue_()

    def item(self) -> int | None:
        """Return the number of the item that is shown, or None where there is none."""
        item = self.page.evaluate("document.querySelector('#centre')?.dataset.item")
        return int(item) if item else None

    def ready(self) -> None:
        """Wait until the decisions are stored and the next item is in hand."""
        self.page.locator("#last-decision", has_text="Saving").wait_for(state="hidden")
        self.page.wait_for_load_state("networkidle")

    def _text(self) -> str:
        comment = self.page.locator("#comment > .text")
        self.page.wait_for_timeout(550)  # no click or deciding key counts right after an item is drawn
        if not comment.is_visible():
            self.page.locator("#comment > summary").click()
        return comment.inner_text()

    def decide(self, action: str | None = None) -> Intent | None:
        """Read the comment and decide it; return what was decided, None where nothing is left."""
        while True:
            item = self.item()
            if item is None:
                return None
            text = self._text()
            self.page.wait_for_load_state("networkidle")  # the item is reserved now, or held by another
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
        """Leave an item that another moderator holds."""
        if self.is_phone:
            self.page.locator(".later").first.tap()
        else:
            self.page.keyboard.press("j")
        self.page.wait_for_function(
            "item => document.querySelector('#centre')?.dataset.item != item", arg=str(item)
        )

    def _tick(self, labels: tuple[str, ...]) -> None:
        """Say which labels are true; in a blind review also that none is."""
        for label in labels:
            box = self.page.locator(f"input[name=labels][value={label}]")
            if not box.is_checked():
                if self.is_phone:
                    box.dispatch_event("click")  # wherever the page was scrolled to
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

    def moved_on(self, intent: Intent) -> None:
        """Wait until another item is shown, or none."""
        self.page.wait_for_function(
            "item => document.querySelector('#centre')?.dataset.item != item", arg=str(intent.item)
        )

    def undo(self, intent: Intent) -> None:
        """Press U right after a decision, while its answer is on its way; wait for the item to come back."""
        self.page.keyboard.press("u")
        intent.undone = True
        with contextlib.suppress(TimeoutError):  # the checks say what was undone instead
            self.page.locator("#status-message", has_text="Undone").wait_for(timeout=15_000)
        self.ready()

    def close(self) -> None:
        """Go home."""
        self.ready()
        self.context.close()


@dataclass
class Cast:
    """Everybody."""

    intents: list[Intent]
    platforms: dict[str, Platform]
    perspective: Perspective
    apps: dict[str, ApiModerator]
    staff: dict[str, Staff]
    receiver: Receiver


def hire(site: Site, hooks: Receiver) -> Cast:
    """Give everybody an account, a role and a key."""
    constants = {
        "ROLES": ROLES, "LIMITED": LIMITED, "LIMITED_TO": LIMITED_TO, "COMMUNITIES": COMMUNITIES,
        "PASSWORD": PASSWORD, "HOOK": hooks.url,
    }  # fmt: skip
    script = "".join(f"{name} = {value!r}\n" for name, value in constants.items()) + _HIRE
    keys = json.loads(site.manage("shell", "-v0", "-c", script).splitlines()[-1])
    tally = site.tally
    intents: list[Intent] = []
    addresses = (f"203.0.113.{number}" for number in range(20, 99))
    return Cast(
        intents=intents,
        platforms={
            name: Platform(
                site.url, tally, secret=keys[name], address=next(addresses), callback=f"{hooks.url}/{name}"
            )
            for name in COMMUNITIES
        },
        perspective=Perspective(site.url, tally, secret=keys["perspective"], address=next(addresses)),
        apps={name: ApiModerator(site, name, tally, keys[name], intents) for name in ("ann", "ben", "lea")},
        staff={name: Staff(site, name, tally, next(addresses)) for name in ("root", *ROLES)},
        receiver=hooks,
    )
