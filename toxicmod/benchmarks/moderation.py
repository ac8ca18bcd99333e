"""Latency of the console's reads, actions and pages."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from django.core.cache import cache
from django.db import transaction
from django.test import Client
from django.urls import reverse

from apps.accounts.models import User
from apps.moderation import actions, saved_views, selectors, simulator, statistics
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import VIEWS, Author, Decision, Policy, QueueItem
from apps.moderation.permissions import visible_to

ROWS = 50
BUDGET_MS = 150.0


@dataclass(frozen=True)
class Timing:
    """The number of runs of a read or an action, and percentiles of its milliseconds."""

    name: str
    runs: int
    p50: float
    p95: float


def _time(name: str, work: Callable[[], object], runs: int) -> Timing:
    work()
    milliseconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        milliseconds.append((time.perf_counter() - start) * 1e3)
    return _timing(name, milliseconds)


def _timing(name: str, milliseconds: list[float]) -> Timing:
    return Timing(
        name,
        len(milliseconds),
        float(np.percentile(milliseconds, 50)),
        float(np.percentile(milliseconds, 95)),
    )


def _card(user: User, items: list[int]) -> None:
    """Read everything that the console shows for one item."""
    item = QueueItem.objects.with_related().get(pk=random.choice(items))
    item.default_rule()
    saved_views.count_up_to(item.similar())
    item.last_decision()
    if author := item.submission.author:
        author.active_strikes()
        list(selectors.author_decisions(user, author)[:5])
        list(selectors.open_appeals(author)[:5])
    statistics.shift_exposure(user)


def _work_time(user: User, runs: int) -> list[Timing]:
    """Time claiming, deciding and undoing; the items are unchanged afterwards."""
    milliseconds: dict[str, list[float]] = {"claim the next": [], "decide": [], "undo": []}
    for _ in range(runs):
        start = time.perf_counter()
        item = actions.claim_next(user=user)
        claimed = time.perf_counter()
        assert item is not None
        decided = actions.decide(
            item_id=item.pk, version=item.version, user=user, action=Decision.Action.APPROVE
        )
        done = time.perf_counter()
        undone = actions.undo(decision_id=decided.decision.pk, user=user)
        for name, seconds in zip(
            milliseconds, (claimed - start, done - claimed, time.perf_counter() - done), strict=True
        ):
            milliseconds[name].append(seconds * 1e3)
        actions.release(item_id=undone.item.pk, user=user)
    return [_timing(name, times) for name, times in milliseconds.items()]


def measure(runs: int = 100) -> list[Timing]:
    """Measure every read and action with the rows of the database, and undo the changes.

    Raises:
        ModerationError: no user may decide, or the queue is empty.
    """
    user = User.objects.filter(groups__name="lead", is_active=True).order_by("pk").first()
    items = list(QueueItem.objects.open().order_by("pk").values_list("pk", flat=True)[:2_000])
    policy = Policy.objects.active_for("")
    if user is None or policy is None or not items:
        raise ModerationError(
            "The benchmark needs a lead, a policy and a queue: run `manage.py seed_benchmark` first."
        )
    rules = actions.rules_of(policy)
    community = QueueItem.objects.open().values_list("community", flat=True)[0]

    def page(view: str) -> Callable[[], object]:
        return lambda: list(
            visible_to(user, QueueItem.objects.in_view(view, user)).by_priority().with_related()[:ROWS]
        )

    def page_of(**which: str) -> Callable[[], object]:
        return lambda: list(QueueItem.objects.open().filter(**which).by_priority().with_related()[:ROWS])

    def newest_decisions() -> None:
        list(Decision.objects.select_related("by", "rule").order_by("-pk")[:ROWS])

    def counts() -> None:
        cache.clear()
        saved_views.view_counts(user)

    def simulate_cold() -> None:
        cache.clear()
        simulator.simulate(user=user, rules=rules)

    def preview() -> None:
        with transaction.atomic():
            actions.preview_bulk(
                user=user, filter={"label": "insult", "score_from": 0.5}, action=Decision.Action.APPROVE
            )
            transaction.set_rollback(True)

    return [
        *(_time(f"queue: {view}", page(view), runs) for view in VIEWS),
        _time("queue: one community", page_of(community=community), runs),
        _time("queue: label threat", page_of(label="threat"), runs),
        _time("counts of all views, uncached", counts, runs),
        _time("one item with its context", lambda: _card(user, items), runs),
        *_work_time(user, runs),
        _time("score histogram", lambda: actions.histogram(user=user, filter={"label": "insult"}), runs),
        _time("bulk preview: exact count and sample", preview, min(runs, 20)),
        _time("own figures", lambda: statistics.moderator_statistics(user), runs),
        _time("agreement", statistics.agreement, runs),
        _time("simulator, first request", simulate_cold, min(runs, 20)),
        _time("simulator, moving a threshold", lambda: simulator.simulate(user=user, rules=rules), runs),
        _time("newest decisions", newest_decisions, runs),
    ]


PAGES = {
    "review": "admin:moderation_review",
    "profile": "admin:moderation_profile",
    "quality": "admin:moderation_quality",
    "webhooks": "admin:moderation_webhooks",
    "policies": "admin:moderation_policies",
    "bulk": "admin:moderation_bulk",
    "admin list: predictions": "admin:predictions_prediction_changelist",
    "admin list: queue items": "admin:moderation_queueitem_changelist",
    "admin list: decisions": "admin:moderation_decision_changelist",
    "admin list: authors": "admin:moderation_author_changelist",
}


def measure_pages(runs: int = 50) -> list[Timing]:
    """Measure the console's pages and the largest lists of the admin, without a socket.

    Raises:
        ModerationError: no user may decide, or the queue is empty.
    """
    user = User.objects.filter(groups__name="lead", is_active=True).order_by("pk").first()
    items = list(QueueItem.objects.open().order_by("-priority").values_list("pk", flat=True)[:2_000])
    policy = Policy.objects.active_for("")
    author = Author.objects.order_by("-pk").first()
    if user is None or policy is None or author is None or not items:
        raise ModerationError("The benchmark needs a lead and a queue: run `manage.py seed_benchmark` first.")
    User.objects.filter(pk=user.pk).update(is_staff=True, is_superuser=False)
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    fetch = {"X-Requested-With": "fetch"}

    def get(name: str, *args: object, **query: object) -> Callable[[], object]:
        url = reverse(name, args=args, query=query or None)

        def ask() -> None:
            answer = client.get(url, follow=True)
            if answer.status_code != 200:
                raise ModerationError(f"{url} answered {answer.status_code}.")

        return ask

    def card() -> None:
        get("admin:moderation_item", random.choice(items))()

    def decide() -> None:
        item = actions.claim_next(user=user)
        assert item is not None
        answer = client.post(
            reverse("admin:moderation_decide", args=[item.pk]),
            {"action": "approve", "version": item.version, "seconds": 1},
            headers=fetch,
        )
        assert answer.status_code == 200, answer.content

    def prefetch() -> None:
        data = {"tab": "bench", "exclude": random.choice(items)}
        client.post(reverse("admin:moderation_next"), data, headers=fetch)

    return [
        *(_time(name, get(url), runs) for name, url in PAGES.items()),
        *(_time(f"review: {view}", get("admin:moderation_review", view=view), runs) for view in VIEWS),
        _time("an item", card, runs),
        _time("prefetch of the next item", prefetch, runs),
        _time("decide by key", decide, runs),
        _time(
            "bulk: a range of one label", get("admin:moderation_bulk", label="insult", score_from=0.5), runs
        ),
        _time("a policy and its simulation", get("admin:moderation_policy", policy.pk), runs),
        _time("search by author", get("admin:moderation_search", q=author.ref), runs),
        _time("search by number", get("admin:moderation_search", q=items[0]), runs),
    ]


def table(timings: list[Timing]) -> str:
    """Return the timings as a Markdown table."""
    lines = ["| name | runs | p50 ms | p95 ms | within 150 ms |", "|---|---:|---:|---:|---|"]
    for timing in timings:
        verdict = "yes" if timing.p95 <= BUDGET_MS else "NO"
        lines.append(f"| {timing.name} | {timing.runs} | {timing.p50:.1f} | {timing.p95:.1f} | {verdict} |")
    return "\n".join(lines)
