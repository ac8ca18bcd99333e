"""The events of each day of the week."""

import csv
import itertools
import json
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

from playwright.sync_api import Browser

from apps.training.jigsaw import COLUMNS
from toxicmod.tests.week.actors import CONSOLE, LIMITED, Cast, ModeratorBrowser, Receiver, Staff, create_cast
from toxicmod.tests.week.checks import Day, Findings
from toxicmod.tests.week.site import Site
from toxicmod.tests.week.traffic import COMMUNITIES, Comment, ConnectedPlatform, Visitor, Writers

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROWS = 800  # of a data set
CHALLENGER = "/admin/training/trainingrun/challenger/"
CANARY_COMMENTS = 1_000  # comments that a canary scores before it is promoted
CHECK_SECONDS = 120.0  # more than the checks of a day take, so that no webhook is sent meanwhile
LABELS_TO_TRAIN = 500  # the site trains automatically after this number of labels


class Week:
    """The site, its users, and their actions from Monday to Sunday."""

    def __init__(self, site: Site, browser: Browser, hooks: Receiver) -> None:
        self.site, self.browser = site, browser
        self.writers = Writers(seed=17)
        # The trainer registers the base model with MLflow, which takes long.
        site.clock.forward(timedelta(minutes=6))
        self.cast: Cast = create_cast(site, hooks)
        self.began = site.clock.now()
        self.morning = self.began.replace(hour=6, minute=10, second=0, microsecond=0)
        self.seen: dict[str, Any] = {}
        self.day = 0
        self._tokens = itertools.count(1)
        self.new_secrets: dict[str, str] = {}  # rotated secrets that the receiver gets in the evening
        self.visitor = Visitor(site.url, "203.0.113.150", self.site.request_counts)

    def run_day(self, name: str) -> Findings:
        """Run a day and its checks; return the findings."""
        self.day += 1
        assert DAYS[self.day - 1] == name, "the days must run in order"
        began = self.site.clock.now()
        # The server computes the hashes of two passwords at a time.
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(Staff.sign_in, self.cast.staff.values()))
        getattr(self, f"_{name.lower()}")()
        self.morning += timedelta(days=1)
        self._until(self.morning)
        self.site.forward(minutes=6, trainer=True)  # so that the results of the schedules are counted
        self.site.settle(CHECK_SECONDS)
        return Day(self.site, self.cast, self.day, began, self.seen).all()

    def _until(self, moment: datetime) -> None:
        remaining = (moment - self.site.clock.now()).total_seconds()
        assert remaining > 0, f"it is after {moment}: this machine is too slow for a day"
        self.site.forward(seconds=remaining)

    def _at(self, hour: int) -> None:
        self._until(self.morning.replace(hour=hour, minute=0))

    # Days

    def _monday(self) -> None:
        self.sign_webhooks()
        self.hold_other_languages()
        self._at(9)
        self.traffic()
        self._at(13)
        self.moderate()
        self._at(18)
        self.traffic()
        self.lead()

    def _tuesday(self) -> None:
        self._at(9)
        self.traffic()
        self.receiver_is_down(lambda: self.moderate(browser=False))
        self._at(14)
        self.moderate()
        self.raid()
        self._at(19)
        self.lead()

    def _wednesday(self) -> None:
        self._at(9)
        self.traffic()
        self.appeal()
        self.import_rows("mistaken")
        self.train(self.moderate)
        self._at(13)
        self.canary(force=True)
        self.site.wait(
            lambda: self._outcomes()[-1:] == ["rolled_back"],
            lambda: f"the canary has not ended: {self._outcomes()}",
        )
        self._at(18)
        self.lead()

    def _thursday(self) -> None:
        self._at(9)
        self.traffic()
        self.import_rows("corrected")
        self.train(self.moderate)
        self._at(14)
        self.force_promotion()
        self.traffic()

    def _friday(self) -> None:
        self._at(9)
        self.traffic()
        self.give_feedback()
        self.train_automatically(self.moderate)
        # A model of so few comments may treat one group worse by chance. Then a lead has to force the canary
        # and, once it has finished, the promotion.
        force = bool(self.gates())
        self.canary(force=force)
        outcome = "finished" if force else "completed"
        self.site.wait(
            lambda: self._outcomes()[-1:] == [outcome],
            lambda: f"the canary has not ended: {self._outcomes()}",
        )
        if force:
            self.force_promotion()
        self._at(18)
        self.traffic()
        self.lead()

    def _saturday(self) -> None:
        self._at(9)
        self.traffic()
        self.rotate_keys()
        self.roll_back()
        self._at(13)
        self.moderate()
        self.cast.receiver.secrets = self.new_secrets
        self.bulk()
        self._at(18)
        self.traffic()

    def _sunday(self) -> None:
        self._at(9)
        self.traffic()
        self.moderate()
        self.promote()
        self.gone()
        self._at(18)
        self.traffic()
        self.lead()

    def hold_other_languages(self) -> None:
        """Have a lead send comments that the model does not score to the moderators."""
        lea = ModeratorBrowser(self.browser, self.site, "lea", self.cast.intents)
        lea.hold_other_languages(
            self.site.one("SELECT id FROM moderation_policy WHERE community = '' AND status = 'active'")
        )
        lea.close()
        assert not lea.errors, lea.errors

    # Platforms and visitors

    def traffic(self) -> None:
        """Send some hundred comments through every API."""
        for community in COMMUNITIES:
            platform = self.cast.platforms[community]
            for path, count in (("predict_proba", 40), ("predict", 1), ("predict_proba", 1), ("predict", 8)):
                comments = self.writers.comments(count, community=community)
                results = platform.predict(comments, path=path)
                for number, (comment, result) in enumerate(zip(comments, results, strict=True)):
                    if number % 7 == 0:
                        is_right = result["is_toxic"] == comment.is_rude
                        platform.feedback(result["id"], comment, is_right=is_right)
            platform.predict(self.writers.comments(3, community=community), do_not_store=True)
            moderated = [platform.moderate(self.writers.comment(community, rude=0.6)) for _ in range(10)]
            edited = self.writers.comment(community, rude=0.6)
            for _ in range(2):  # the second call is a retry
                platform.moderate(edited, moderated[0])
            platform.moderate(self.writers.comment(community, is_scored=False))
        perspective = self.cast.perspective
        for _ in range(2):
            comment, token = self.writers.comment(rude=0.5), f"{self.day}-{next(self._tokens)}"
            first, retry = (perspective.analyze(comment, clientToken=token) for _ in range(2))
            assert first == retry
            perspective.suggest(self.writers.comment(rude=0.5))
        perspective.batch(self.writers.comments(10))
        perspective.create_moderation(self.writers.comments(5))
        for connected in self.cast.connected.values():
            self._send_comments(connected)
        self.visitor.try_comment(self.writers.comment(), is_right=True)
        self.visitor.try_comment(self.writers.comment(rude=1.0), is_right=False)
        self.visitor.call("GET", "/example", headers={"Accept": "application/json"})

    def _send_comments(self, connected: ConnectedPlatform) -> None:
        """Send new and edited comments of a connected platform, a request twice, and reports."""
        comments = self.writers.comments(5, community=connected.community, rude=0.6)
        identifiers = [connected.send_comment(comment) for comment in comments[:4]]
        connected.send_comment(comments[4], identifiers[0])
        if connected.has_ids:
            connected.resend(identifiers[1])
        if connected.platform == "mastodon":
            connected.report(identifiers[2])

    def raid(self) -> None:
        """Send many rude comments, so that an alert opens."""
        for community in COMMUNITIES:
            comments = self.writers.comments(150, community=community, rude=0.95)
            self.cast.platforms[community].predict(comments)
        before = self._alerts()
        self.site.forward(minutes=11)
        for _ in range(5):  # an alert opens after several evaluations of its rule
            if self._alerts() > before:
                break
            self.site.forward(minutes=3)
        assert self._alerts() > before, "the raid opened no alert"
        self.site.forward(minutes=6)

    def _alerts(self) -> int:
        return self.site.one(
            "SELECT count(*) FROM monitoring_alert a JOIN monitoring_alertrule r ON r.id = a.rule_id"
            " WHERE r.name = 'Many comments are flagged'"
        )

    def give_feedback(self) -> None:
        """Give feedback with labels on many comments, until the site has enough to train a model."""
        last = self.site.one("SELECT max(created_at) FROM training_dataset")
        count = self.site.one("SELECT count(*) FROM predictions_feedback WHERE created_at >= %s", last)
        predictions = itertools.chain.from_iterable(
            self._score(community, 200) for community in itertools.cycle(COMMUNITIES)
        )
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(
                self._confirm, itertools.islice(predictions, max(LABELS_TO_TRAIN + 20 - count, 0))
            ):
                pass

    def _score(self, community: str, count: int) -> list[tuple[str, str, Comment]]:
        comments = self.writers.comments(count, community=community, rude=0.4)
        results = self.cast.platforms[community].predict(comments)
        return [(community, result["id"], comment) for comment, result in zip(comments, results, strict=True)]

    def _confirm(self, scored: tuple[str, str, Comment]) -> None:
        community, prediction, comment = scored
        self.cast.platforms[community].feedback(prediction, comment, is_right=True)

    # Moderators

    def moderate(self, *, browser: bool = True) -> None:
        """Work on the queue: two moderators through the API, one with a keyboard and one on a phone."""
        failures: list[BaseException] = []

        def work(name: str) -> None:
            try:
                self.cast.apps[name].work(6, escalate_every=5, undo_every=4)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in ("ann", "ben")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        if browser:
            self._in_the_browser()

    def _in_the_browser(self) -> None:
        """Decide by keyboard and on a phone by touch, with slow responses."""
        laptop = ModeratorBrowser(self.browser, self.site, LIMITED, self.cast.intents)
        phone = ModeratorBrowser(self.browser, self.site, "pat", self.cast.intents, width=390)
        for number in range(4):
            intent = laptop.decide()
            assert intent is not None, f"too few comments of {LIMITED}'s community wait"
            if number == 2:
                laptop.undo(intent)
                laptop.decide()
                laptop.wait_for_next(intent)
            else:
                laptop.wait_for_next(intent)
            if (phone_intent := phone.decide()) is not None:
                phone.wait_for_next(phone_intent)
        if (skipped := laptop.decide("skip")) is not None:
            laptop.wait_for_next(skipped)
        for device in (laptop, phone):
            device.close()
            assert not device.errors, f"{device.name}'s browser: {device.errors}"
            twice = {item for item in device.shown if device.shown.count(item) > 1} - self._undone()
            assert not twice, f"{device.name} saw decided items again: {twice}; in this order {device.shown}"

    def _undone(self) -> set[int]:
        return {intent.item for intent in self.cast.intents if intent.undone}

    def lead(self) -> None:
        """Have a lead decide what was escalated or appealed."""
        for queue in ("escalated", "appeal"):
            self.cast.apps["lea"].work(6, queue=queue)

    def appeal(self) -> None:
        """Appeal some rejections, on the page and through the platform."""
        rejected = [
            receipt.payload
            for receipt in self.cast.receiver.receipts
            if receipt.payload.get("outcome") == "reject"
        ]
        appealable = self._still_rejected([payload["decision_id"] for payload in rejected])
        urls = [payload["appeal_url"] for payload in rejected if payload["decision_id"] in appealable[:2]]
        for url in urls:
            self.visitor.appeal(url, "This was meant as a joke among friends.")
        for payload in rejected:
            if payload["decision_id"] in appealable[2:3]:
                platform = self.cast.platforms[payload["community"]]
                body = {"decision_id": payload["decision_id"], "text": "The author asks for another review."}
                platform.api("POST", "appeals", body, expect=201)

    def _still_rejected(self, decisions: list[int]) -> list[int]:
        decision_rows = self.site.rows(
            "SELECT d.id FROM moderation_decision d WHERE d.id = ANY(%s) AND d.action = 'reject'"
            " AND NOT EXISTS (SELECT 1 FROM moderation_decision o WHERE o.submission_id = d.submission_id"
            " AND o.id > d.id) ORDER BY d.id",
            decisions,
        )
        return [row.id for row in decision_rows]

    def bulk(self) -> None:
        """Have a lead approve the comments that are least likely to be toxic, with a bulk job."""
        lea = self.cast.staff["lea"]
        form = {
            "label": "toxic",
            "score_from": "0",
            "score_to": "0.1",
            "queue": "learn",
            "community": "",
            "cluster": "",
        }
        page = lea.get(f"{CONSOLE}bulk/?label=toxic&score_from=0&score_to=0.1&queue=learn")
        if not re.search(r"<b>[1-9][\d,]*</b>\s*items? match", page):
            return
        job = lea.post(
            f"{CONSOLE}bulk/", form | {"action": "approve", "note": "all harmless"}, page=CONSOLE_BULK
        )
        count = self.site.one("SELECT count FROM moderation_bulkjob ORDER BY id DESC LIMIT 1")
        lea.post(job, {"typed": str(count), "do": "start"})
        self.site.wait(
            lambda: self.site.one("SELECT status FROM moderation_bulkjob ORDER BY id DESC LIMIT 1") == "done",
            lambda: "the bulk job does not end",
        )

    # Webhooks

    def sign_webhooks(self) -> None:
        """Have an administrator create the platforms' signing secrets, and send a test."""
        for community in COMMUNITIES:
            self._rotate(community)
        root = self.cast.staff["root"]
        before = len(self.cast.receiver.accepted())
        page = self._signing(COMMUNITIES[0])
        root.post(f"{page}test/", {"url": f"{self.cast.receiver.url}/test"}, page=page, expect=(200, 302))
        assert len(self.cast.receiver.accepted()) == before + 1, (
            f"the receiver got no test: {self.cast.receiver.faults}"
        )

    def _signing(self, community: str) -> str:
        """Return the page of a platform's signing secrets."""
        client = self.site.one("SELECT id FROM accounts_apikey WHERE name = %s", f"{community}-platform")
        return f"{CONSOLE}webhooks/signing/{client}/"

    def _rotate(self, community: str) -> tuple[str, str]:
        """Create a secret, which is shown once; return its id and the secret. The receiver gets it."""
        page = self._signing(community)
        root = self.cast.staff["root"]
        response = root.send(f"{page}rotate/", {"overlap_hours": "24"}, page=page, expect=(200, 302))
        html = response.text if response.status_code == 200 else root.get(response.headers["Location"])
        shown = re.search(r"(?s)The secret of (\w+).*?<code class=\"secret\">(\w+)</code>", html)
        assert shown, f"{page} shows no secret"
        assert shown[2] not in root.get(page), f"{page} shows the secret twice"
        self.cast.receiver.secrets[shown[1]] = shown[2]
        return shown[1], shown[2]

    def rotate_keys(self) -> None:
        """Rotate the platforms' secrets; the receiver uses the old ones until the evening."""
        known = dict(self.cast.receiver.secrets)
        for community in COMMUNITIES:
            self._rotate(community)
        self.new_secrets = self.cast.receiver.secrets
        self.cast.receiver.secrets = known

    def receiver_is_down(self, meanwhile: Callable[[], None]) -> None:
        """Let the receiver respond with 503 and Retry-After for an hour."""
        receiver = self.cast.receiver
        receiver.down_until = self.site.clock.now() + timedelta(hours=1)
        first = len(receiver.receipts)
        meanwhile()
        for _ in range(3):
            self.site.forward(minutes=18)
        early = [receipt for receipt in receiver.receipts[first:] if receipt.status == 503]
        attempts = {receipt.delivery: 0 for receipt in early}
        for receipt in early:
            attempts[receipt.delivery] += 1
        self.site.forward(minutes=20)
        receiver.down_until = None
        assert early, "nothing was sent while the receiver was down"
        repeated = {delivery: count for delivery, count in attempts.items() if count > 1}
        assert not repeated, f"retried before the time of Retry-After: {repeated}"

    def gone(self) -> None:
        """Let one platform's receiver respond with 410, after which no webhook may be retried."""
        community = COMMUNITIES[2]
        self.cast.receiver.gone.add(f"/{community}")
        first = len(self.cast.receiver.receipts)
        self.moderate(browser=False)
        self.site.forward(minutes=15)
        self.site.forward(minutes=30)
        delivery_ids = [r.delivery for r in self.cast.receiver.receipts[first:] if r.status == 410]
        assert len(delivery_ids) == len(set(delivery_ids)), "a webhook was retried after a 410"

    # Models

    def import_rows(self, what: str) -> None:
        """Import labelled comments; the first time with wrong labels."""
        path = self.site.folder / f"{what}.csv"
        with path.open("w", newline="") as file:
            rows = Writers(seed=3).rows(ROWS, mistaken=what == "mistaken")
            csv.writer(file).writerows([COLUMNS, *rows])
        self.site.manage("import_dataset", str(path), "--name", "history")

    def train(self, meanwhile: Callable[[], None]) -> None:
        """Have the engineer train a model on the newest data set, and call a function during the training."""
        eli = self.cast.staff["eli"]
        dataset = self.site.one("SELECT id FROM training_dataset ORDER BY created_at DESC LIMIT 1")
        form = {"dataset": dataset, "recipe": "two_level", "seed": "0"}
        eli.post("/admin/training/trainingrun/start/", form)
        meanwhile()
        self.site.settle()
        self.check_training()

    def train_automatically(self, meanwhile: Callable[[], None]) -> None:
        """Wait until the schedule has trained a model on the feedback.

        Args:
            meanwhile: a function to call while the gates of the model are measured.
        """
        query = "SELECT count(*) FROM training_trainingrun WHERE trigger IS NOT NULL"
        before = self.site.one(query)
        self.site.forward(minutes=16)
        self.site.wait(lambda: self.site.one(query) > before, lambda: "the schedule has trained no model")
        self.site.settle()
        meanwhile()
        self.check_training()

    def check_training(self) -> None:
        """Check that the newest run succeeded, and wait for its gate report."""
        run = self.site.rows(
            "SELECT status, error, version_id FROM training_trainingrun ORDER BY id DESC LIMIT 1"
        )[0]
        assert run.status == "succeeded", run
        self.site.wait(
            lambda: self.site.one(
                "SELECT count(*) FROM training_gatereport WHERE version_id = %s", run.version_id
            ),
            lambda: "the gates are not measured",
        )

    def gates(self) -> list[str]:
        """Return the failed gates of the newest report."""
        gates = self.site.one("SELECT gates FROM training_gatereport ORDER BY id DESC LIMIT 1")
        return [json.dumps(gate) for gate in gates if not gate["passed"]]

    def canary(self, *, force: bool) -> None:
        """Serve half of the requests with the challenger, until it has scored enough or is rolled back."""
        form: dict[str, Any] = {"reason": "to test it", "share": "50", "canary": "1"}
        if force:
            form["force"] = "on"
        before = self._outcomes()
        self.cast.staff["lea"].post(CHALLENGER, form)
        version = self.site.rows("SELECT id FROM registry_modelversion WHERE alias = 'canary'")
        assert version, "the canary did not start"
        self._wait_for_processes()

        def send(count: int) -> None:
            community = COMMUNITIES[count % 3]
            self.cast.platforms[community].predict(
                self.writers.comments(1 if count < 200 else 10, community=community)
            )

        with ThreadPoolExecutor(4) as pool:
            for begin in range(0, 800, 100):
                list(pool.map(send, range(begin, begin + 100)))
                served = self.site.one(
                    "SELECT count(*) FROM predictions_prediction WHERE model_version_id = %s", version[0].id
                )
                if self._outcomes() != before or served >= CANARY_COMMENTS:
                    return

    def _wait_for_processes(self) -> None:
        """Give every web process the two seconds in which it notices a change of models."""
        threading.Event().wait(2.5)

    def _outcomes(self) -> list[str]:
        return [row.outcome for row in self.site.rows("SELECT outcome FROM registry_canaryend ORDER BY id")]

    def roll_back(self) -> None:
        """Have a lead roll back to the previous champion."""
        self.cast.staff["lea"].post(
            "/admin/training/trainingrun/roll-back/", {"reason": "to compare both once more"}
        )
        kind = self.site.one("SELECT kind FROM registry_promotion ORDER BY id DESC LIMIT 1")
        assert kind == "rollback", kind
        self._wait_for_processes()

    def force_promotion(self) -> None:
        """Have a lead promote the challenger, although its fairness gates fail."""
        form = {"reason": "It knows how people write here.", "share": "5", "promote": "1", "force": "on"}
        self.cast.staff["lea"].post(CHALLENGER, form)
        assert self.site.one("SELECT forced FROM registry_promotion ORDER BY id DESC LIMIT 1")
        self._wait_for_processes()

    def promote(self) -> None:
        """Have a lead promote the model that was rolled back."""
        number = self.site.one("SELECT number FROM registry_modelversion WHERE alias = 'previous'")
        before = self.site.one("SELECT count(*) FROM registry_promotion")
        self.site.manage("promote_model", f"v{number}", "--reason", "It was the better one.", "--force")
        assert self.site.one("SELECT count(*) FROM registry_promotion") == before + 1
        self._wait_for_processes()


CONSOLE_BULK = f"{CONSOLE}bulk/?label=toxic&score_from=0&score_to=0.1&queue=learn"
