"""What happens on each day of the week."""

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
from toxicmod.tests.week.actors import CONSOLE, LIMITED, Cast, ModeratorBrowser, Receiver, hire
from toxicmod.tests.week.checks import Day, Findings
from toxicmod.tests.week.site import Site
from toxicmod.tests.week.traffic import COMMUNITIES, Comment, Visitor, Writers

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ROWS = 800  # of a data set
CHALLENGER = "/admin/training/trainingrun/challenger/"
ENOUGH = 1_000  # comments that a canary scores before it is promoted
TRAINED = 500  # statements from which on the site trains by itself


class Week:
    """The site, everybody, and what they do from Monday to Sunday."""

    def __init__(self, site: Site, browser: Browser, hooks: Receiver) -> None:
        self.site, self.browser = site, browser
        self.writers = Writers(seed=17)
        # MLflow is told of the shipped model, which takes the trainer long.
        site.clock.forward(timedelta(minutes=6))
        self.cast: Cast = hire(site, hooks)
        self.began = site.clock.now()
        self.morning = self.began.replace(hour=6, minute=10, second=0, microsecond=0)
        self.seen: dict[str, Any] = {}
        self.day = 0
        self.later: dict[str, str] = {}  # secrets that the receiver is given later
        self.visitor = Visitor(site.url, "203.0.113.150", self.site.tally)

    def live(self, name: str) -> Findings:
        """Live through a day; return what its checks found."""
        self.day += 1
        assert DAYS[self.day - 1] == name, "the days come in their order"
        began = self.site.clock.now()
        for staff in self.cast.staff.values():
            staff.sign_in()
        getattr(self, f"_{name.lower()}")()
        self.morning += timedelta(days=1)
        self._until(self.morning)
        self.site.forward(minutes=6, trainer=True)  # what the schedules of the morning did is counted
        return Day(self.site, self.cast, self.day, began, self.seen).all()

    def _until(self, moment: datetime) -> None:
        left = (moment - self.site.clock.now()).total_seconds()
        assert left > 0, f"it is after {moment}: this machine is too slow for a day"
        self.site.forward(seconds=left)

    def _at(self, hour: int) -> None:
        self._until(self.morning.replace(hour=hour, minute=0))

    # The days

    def _monday(self) -> None:
        self.sign_webhooks()
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
        self.train()
        self._at(13)
        self.canary(force=True)
        self.site.wait(
            lambda: self._outcomes()[-1:] == ["rolled_back"],
            lambda: f"the canary goes on: {self._outcomes()}",
        )
        self.moderate()
        self._at(18)
        self.lead()

    def _thursday(self) -> None:
        self._at(9)
        self.traffic()
        self.moderate()
        self.import_rows("corrected")
        self.train()
        self._at(14)
        self.force_promotion()
        self.traffic()

    def _friday(self) -> None:
        self._at(9)
        self.traffic()
        self.statements()
        self.learn()
        # A model of so few comments may treat one group worse by chance. Then a lead has to force the canary
        # and, once it has finished, the promotion.
        force = bool(self.gates())
        self.canary(force=force)
        outcome = "finished" if force else "completed"
        self.site.wait(
            lambda: self._outcomes()[-1:] == [outcome], lambda: f"the canary goes on: {self._outcomes()}"
        )
        if force:
            self.force_promotion()
        self._at(13)
        self.moderate()
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
        self.cast.receiver.secrets = self.later
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

    # What platforms and visitors do

    def traffic(self) -> None:
        """Let some hundred comments come in, through every API."""
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
            for _ in range(6):
                platform.moderate(self.writers.comment(community, rude=0.6))
        perspective = self.cast.perspective
        for _ in range(2):
            perspective.analyze(self.writers.comment(rude=0.5))
            perspective.suggest(self.writers.comment(rude=0.5))
        perspective.batch(self.writers.comments(10))
        self.visitor.try_comment(self.writers.comment(), is_right=True)
        self.visitor.try_comment(self.writers.comment(rude=1.0), is_right=False)
        self.visitor.call("GET", "/example", headers={"Accept": "application/json"})

    def raid(self) -> None:
        """Let an angry crowd come: an alert opens."""
        for community in COMMUNITIES:
            comments = self.writers.comments(150, community=community, rude=0.95)
            self.cast.platforms[community].predict(comments)
        before = self._alerts()
        self.site.forward(minutes=11)
        for _ in range(5):  # an alert opens when its rule is broken at several looks
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

    def statements(self) -> None:
        """Have people say of many comments what is true, until the site has enough to learn from."""
        last = self.site.one("SELECT max(created_at) FROM training_dataset")
        said = self.site.one("SELECT count(*) FROM predictions_feedback WHERE created_at >= %s", last)
        left = itertools.chain.from_iterable(
            self._scored(community, 200) for community in itertools.cycle(COMMUNITIES)
        )
        with ThreadPoolExecutor(4) as pool:
            for _ in pool.map(self._say, itertools.islice(left, max(TRAINED + 20 - said, 0))):
                pass

    def _scored(self, community: str, count: int) -> list[tuple[str, str, Comment]]:
        comments = self.writers.comments(count, community=community, rude=0.4)
        results = self.cast.platforms[community].predict(comments)
        return [(community, result["id"], comment) for comment, result in zip(comments, results, strict=True)]

    def _say(self, said: tuple[str, str, Comment]) -> None:
        community, prediction, comment = said
        self.cast.platforms[community].feedback(prediction, comment, is_right=True)

    # What moderators do

    def moderate(self, *, browser: bool = True) -> None:
        """Work on the queue: two by their app at once, one at a desk and one on a phone."""
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
        """Decide at a desk by key and on a phone by touch, with answers that are slow."""
        desk = ModeratorBrowser(self.browser, self.site, LIMITED, self.cast.intents)
        phone = ModeratorBrowser(self.browser, self.site, "pat", self.cast.intents, width=390)
        for number in range(4):
            intent = desk.decide()
            assert intent is not None, f"too few comments of {LIMITED}'s community wait"
            if number == 2:
                desk.undo(intent)
                desk.decide()
                desk.moved_on(intent)
            else:
                desk.moved_on(intent)
            if (tapped := phone.decide()) is not None:
                phone.moved_on(tapped)
        if (skipped := desk.decide("skip")) is not None:
            desk.moved_on(skipped)
        for each in (desk, phone):
            each.close()
            assert not each.errors, f"{each.name}'s browser: {each.errors}"
            twice = {item for item in each.shown if each.shown.count(item) > 1} - self._undone()
            assert not twice, (
                f"{each.name} was shown decided items again: {twice}; in this order {each.shown}"
            )

    def _undone(self) -> set[int]:
        return {intent.item for intent in self.cast.intents if intent.undone}

    def lead(self) -> None:
        """Have a lead decide what was escalated or appealed."""
        for queue in ("escalated", "appeal"):
            self.cast.apps["lea"].work(6, queue=queue)

    def appeal(self) -> None:
        """Let authors object to what was decided: on the page, and through their platform."""
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
                body = {"decision_id": payload["decision_id"], "text": "The author asks to look again."}
                platform.api("POST", "appeals", body, expect=201)

    def _still_rejected(self, decisions: list[int]) -> list[int]:
        found = self.site.rows(
            "SELECT d.id FROM moderation_decision d WHERE d.id = ANY(%s) AND d.action = 'reject'"
            " AND NOT EXISTS (SELECT 1 FROM moderation_decision o WHERE o.submission_id = d.submission_id"
            " AND o.id > d.id) ORDER BY d.id",
            decisions,
        )
        return [row.id for row in found]

    def bulk(self) -> None:
        """Have a lead approve the comments that are least likely to be toxic, all at once."""
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
        """Have an administrator create the platforms' signing secrets, and a platform try them."""
        for community in COMMUNITIES:
            self._rotate(community)
        root = self.cast.staff["root"]
        before = len(self.cast.receiver.accepted())
        page = self._signing(COMMUNITIES[0])
        root.post(f"{page}test/", {"url": f"{self.cast.receiver.url}/test"}, page=page, expect=(200, 302))
        assert len(self.cast.receiver.accepted()) == before + 1, f"no test came: {self.cast.receiver.faults}"

    def _signing(self, community: str) -> str:
        """Return the page of a platform's signing secrets."""
        client = self.site.one("SELECT id FROM accounts_apikey WHERE name = %s", f"{community}-platform")
        return f"{CONSOLE}webhooks/signing/{client}/"

    def _rotate(self, community: str) -> tuple[str, str]:
        """Create a secret, which is shown once; return its id and the secret. The receiver knows it now."""
        page = self._signing(community)
        root = self.cast.staff["root"]
        answer = root.send(f"{page}rotate/", {"overlap_hours": "24"}, page=page, expect=(200, 302))
        html = answer.text if answer.status_code == 200 else root.get(answer.headers["Location"])
        shown = re.search(r"(?s)The secret of (\w+).*?<code class=\"secret\">(\w+)</code>", html)
        assert shown, f"{page} shows no secret"
        assert shown[2] not in root.get(page), f"{page} shows the secret twice"
        self.cast.receiver.secrets[shown[1]] = shown[2]
        return shown[1], shown[2]

    def rotate_keys(self) -> None:
        """Rotate the platforms' secrets; the receiver goes on with the old ones until the evening."""
        known = dict(self.cast.receiver.secrets)
        for community in COMMUNITIES:
            self._rotate(community)
        self.later = self.cast.receiver.secrets
        self.cast.receiver.secrets = known

    def receiver_is_down(self, meanwhile: Callable[[], None]) -> None:
        """Let the platforms' receiver be down for an hour; it says so, and for how long."""
        receiver = self.cast.receiver
        receiver.down_until = self.site.clock.now() + timedelta(hours=1)
        begun = len(receiver.receipts)
        meanwhile()
        for _ in range(3):
            self.site.forward(minutes=18)
        early = [receipt for receipt in receiver.receipts[begun:] if receipt.status == 503]
        tries = {receipt.delivery: 0 for receipt in early}
        for receipt in early:
            tries[receipt.delivery] += 1
        self.site.forward(minutes=20)
        receiver.down_until = None
        assert early, "nothing was sent while the receiver was down"
        again = {delivery: count for delivery, count in tries.items() if count > 1}
        assert not again, f"tried again although the receiver said when to come back (Retry-After): {again}"

    def gone(self) -> None:
        """Let one platform's receiver say that it is gone for good: it is asked once for each decision."""
        community = COMMUNITIES[2]
        self.cast.receiver.gone.add(f"/{community}")
        begun = len(self.cast.receiver.receipts)
        self.moderate(browser=False)
        self.site.forward(minutes=15)
        self.site.forward(minutes=30)
        asked = [r.delivery for r in self.cast.receiver.receipts[begun:] if r.status == 410]
        assert len(asked) == len(set(asked)), "a receiver that is gone (410) was asked again"

    # Models

    def import_rows(self, what: str) -> None:
        """Import labelled comments; the first time with their columns mixed up."""
        path = self.site.folder / f"{what}.csv"
        with path.open("w", newline="") as file:
            rows = Writers(seed=3).rows(ROWS, mistaken=what == "mistaken")
            csv.writer(file).writerows([COLUMNS, *rows])
        self.site.manage("import_dataset", str(path), "--name", "history")

    def train(self) -> None:
        """Have the engineer train a model on the newest data set."""
        eli = self.cast.staff["eli"]
        dataset = self.site.one("SELECT id FROM training_dataset ORDER BY created_at DESC LIMIT 1")
        form = {"dataset": dataset, "recipe": "two_level", "seed": "0"}
        eli.post("/admin/training/trainingrun/start/", form)
        self.site.settle()
        self.trained()

    def learn(self) -> None:
        """Wait until the schedule has found that enough was said, and a model has been trained on it."""
        query = "SELECT count(*) FROM training_trainingrun WHERE trigger IS NOT NULL"
        before = self.site.one(query)
        self.site.forward(minutes=16)
        self.site.wait(lambda: self.site.one(query) > before, lambda: "nothing was learned")
        self.site.settle()
        self.trained()

    def trained(self) -> None:
        """See that the newest run succeeded, and wait until its model is measured at its gates."""
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
        """Return the gates that the newest report says were failed."""
        gates = self.site.one("SELECT gates FROM training_gatereport ORDER BY id DESC LIMIT 1")
        return [json.dumps(gate) for gate in gates if not gate["passed"]]

    def canary(self, *, force: bool) -> None:
        """Let the challenger serve half of the requests, until it has scored enough or was taken back."""
        form: dict[str, Any] = {"reason": "to see how it does", "share": "50", "canary": "1"}
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
                if self._outcomes() != before or served >= ENOUGH:
                    return

    def _wait_for_processes(self) -> None:
        """Give every web process the two seconds in which it notices a change of models."""
        threading.Event().wait(2.5)

    def _outcomes(self) -> list[str]:
        return [row.outcome for row in self.site.rows("SELECT outcome FROM registry_canaryend ORDER BY id")]

    def roll_back(self) -> None:
        """Have a lead go back to the champion before."""
        self.cast.staff["lea"].post(
            "/admin/training/trainingrun/roll-back/", {"reason": "to compare both once more"}
        )
        kind = self.site.one("SELECT kind FROM registry_promotion ORDER BY id DESC LIMIT 1")
        assert kind == "rollback", kind
        self._wait_for_processes()

    def force_promotion(self) -> None:
        """Have a lead promote the challenger, although it treats groups worse: it knows this site's words."""
        form = {"reason": "It knows how people write here.", "share": "5", "promote": "1", "force": "on"}
        self.cast.staff["lea"].post(CHALLENGER, form)
        assert self.site.one("SELECT forced FROM registry_promotion ORDER BY id DESC LIMIT 1")
        self._wait_for_processes()

    def promote(self) -> None:
        """Have a lead promote the model that was rolled back, now as a matter of course."""
        number = self.site.one("SELECT number FROM registry_modelversion WHERE alias = 'previous'")
        before = self.site.one("SELECT count(*) FROM registry_promotion")
        self.site.manage("promote_model", f"v{number}", "--reason", "It was the better one.", "--force")
        assert self.site.one("SELECT count(*) FROM registry_promotion") == before + 1
        self._wait_for_processes()


CONSOLE_BULK = f"{CONSOLE}bulk/?label=toxic&score_from=0&score_to=0.1&queue=learn"
