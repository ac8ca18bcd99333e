"""The checks at the end of each day: each number on each page equals the one in the database.

The queries are plain SQL written for the test, so they share only the tables with the product.
"""

import csv
import html
import io
import json
import math
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from django.utils.translation import get_language_info

from apps.classifier.encoder import FOLDER, MANIFEST
from toxicmod.testing.dashboard import CALLBACK, callback_body
from toxicmod.tests.week.actors import CONSOLE, LIMITED, LIMITED_TO, Cast, Staff
from toxicmod.tests.week.site import METRICS_TOKEN, Site
from toxicmod.tests.week.traffic import COMMUNITIES

LABELS = ("toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate")
NAMES = [label.replace("_", " ") for label in LABELS]
QUEUES = ("urgent", "uncertain", "normal", "audit", "learn", "second", "appeal", "escalated")
HIDDEN = tuple(name for name in COMMUNITIES if name != LIMITED_TO)
HOUR = timedelta(hours=1)
WINDOWS = {"24h": timedelta(days=1), "7d": timedelta(days=7)}
Z = 1.959963984540054  # of a 95% interval
CAP = 5_000  # rows that the largest lists count
DIGITS = {"precision": 2, "recall": 2, "f1": 2, "pr_auc": 3, "roc_auc": 3, "brier": 4, "ece": 4}
UNIQUE = ("hint", "key_id", "mlflow_version")  # short columns that differ in each row
DETAILS = 12  # rows of each kind of record that are opened a day
# These are not computed again, because that would repeat the product's code. Their inputs are checked.
NOT_COMPUTED = {
    ("predicted", "psi"), ("predicted", "jensen-shannon"), ("predicted", "js"), ("predicted", "scores"),
    ("predicted", "unknown n-grams"), ("predicted", "changed words"),
}  # fmt: skip
# Lines above INFO that the scenario itself provokes.
EXPLAINED = (
    ("SecurityWarning", "where tests run as root, so do the workers"),
    ("Forbidden", "the limited moderator requests pages without permission"),
    (f"Not Found: {CONSOLE}item/", "the limited moderator requests an item of another community"),
    (f"Conflict: {CONSOLE}item/", "two moderators reveal the same comment, and one of them is first"),
    ("Substantial drift from", "Celery's workers receive messages from before the clock was moved"),
)


@dataclass
class Findings:
    """Errors that the checks found."""

    day: int
    wrong: list[str] = field(default_factory=list)
    compared: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def _count(self, page: str) -> None:
        with self._lock:
            self.compared[page] += 1

    def equal(self, page: str, number: str, shown: Any, expected: Any, *, within: float = 0.0) -> None:
        """Compare a number on a page with the database."""
        self._count(page)
        if isinstance(shown, float | int) and isinstance(expected, float | int):
            bound = max(within, 5e-6 * max(abs(shown), abs(expected)))  # downloads have six digits
            if abs(shown - expected) <= bound:
                return
        elif shown == expected:
            return
        self.wrong.append(f"day {self.day} | {page} | {number} | shown {shown!r} | expected {expected!r}")

    def true(self, page: str, what: str, holds: object) -> None:
        """Record a check of a page."""
        self._count(page)
        if not holds:
            self.wrong.append(f"day {self.day} | {page} | {what}")


def text_of(page: str) -> str:
    """Return a page's text, its tags left out."""
    body = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def figures_of(page: str) -> dict[str, str]:
    """Return the values of a page's definition lists, by term."""
    pairs = re.findall(r"(?s)<dt[^>]*>(.*?)</dt>\s*<dd[^>]*>(.*?)</dd>", page)
    return {text_of(term): text_of(value) for term, value in pairs}


def tables_of(page: str) -> list[list[list[str]]]:
    """Return the text of each table's cells, by row."""
    return [
        [
            [text_of(cell) for cell in re.findall(r"(?s)<t[hd]\b[^>]*>(.*?)</t[hd]>", row)]
            for row in re.findall(r"(?s)<tr\b[^>]*>(.*?)</tr>", table)
        ]
        for table in re.findall(r"(?s)<table\b[^>]*>(.*?)</table>", page)
    ]


def percent(share: float | None, digits: int = 0) -> str:
    """Format a fraction as the console does."""
    return "–" if share is None else f"{100 * share:.{digits}f}%"


def wilson(hits: float, total: float, squares: float) -> tuple[float, float, float] | None:
    """Return a weighted fraction with its 95% interval (Wilson 1927; effective sample size of Kish 1965)."""
    if not total:
        return None
    share, cases = hits / total, total**2 / squares
    centre = (share + Z**2 / (2 * cases)) / (1 + Z**2 / cases)
    margin = Z / (1 + Z**2 / cases) * math.sqrt(share * (1 - share) / cases + Z**2 / (4 * cases**2))
    return share, max(0.0, centre - margin), min(1.0, centre + margin)


def percentile(
    values: Iterable[float], share: float, *, per_decade: int, first: float, last: float
) -> float | None:
    """Return a percentile of values in bins of equal width on a log scale, interpolated within the bin."""
    width = 1 / per_decade
    top = round(math.log10(last / first) * per_decade) - 1
    bins = Counter(
        min(max(math.floor(math.log10(max(value, 1e-12) / first) * per_decade + 1e-9), 0), top)
        for value in values
    )
    total, before = bins.total(), 0
    for index in sorted(bins):
        if before + bins[index] >= share * total:
            part = (share * total - before) / bins[index]
            return first * 10 ** ((index + part) * width)
        before += bins[index]
    return None


def stated(action: str, mask: int | None, rule: str | None) -> dict[int, bool]:
    """Return which labels a decision states as true or false: all if ticked, else that of its reason."""
    if mask is not None or action == "approve":
        return {bit: bool((mask or 0) >> bit & 1) for bit in range(len(LABELS))}
    return {LABELS.index(rule): True} if rule else {}


@dataclass(frozen=True)
class Part:
    """A filter of a panel, as the page's query string and as SQL."""

    end: datetime
    window: str = "7d"
    community: str | None = None
    source: str = ""

    @property
    def begin(self) -> datetime:
        return self.end - WINDOWS[self.window]

    @property
    def query(self) -> str:
        query = f"?window={self.window}"
        query += "" if self.community is None else f"&community={self.community}"
        return query + (f"&source={self.source}" if self.source else "")

    @property
    def where(self) -> str:
        """A condition on the predictions `p`."""
        return ("TRUE" if self.community is None else f"p.community = '{self.community}'") + (
            f" AND p.source = '{self.source}'" if self.source else ""
        )

    def hours(self) -> list[datetime]:
        return [self.begin + HOUR * number for number in range(round((self.end - self.begin) / HOUR))]


class Day:
    """The checks of one day."""

    def __init__(self, site: Site, cast: Cast, number: int, began: datetime, seen: dict[str, Any]) -> None:
        self.site, self.cast, self.began, self.seen = site, cast, began, seen
        self.findings = Findings(number)
        self.lea: Staff = cast.staff["lea"]

    def all(self) -> Findings:
        """Make every check.

        The server has two processes, so two checks at a time request pages. The first ones and the last ones
        are alone, because they compare numbers of requests and of leases, or read the logs.
        """
        for check in (self.calls, self.console):
            self._check(check)
        # The longest come first; each requests the pages of other users.
        checks = (
            self.limited_moderator, self.dashboard, self.admin, self.roles, self.profiles, self.quality,
            self.policies, self.bulk, self.model_page, self.reading, self.held_languages, self.results,
            self.api, self.challenger, self.webhooks, self.revisions, self.mail, self.export, self.intents,
        )  # fmt: skip
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(self._check, checks))
        for check in (self.connectors, self.schedules, self.logs, self.health, self.metrics):
            self._check(check)
        return self.findings

    def _check(self, check: Callable[[], None]) -> None:
        """Make a check, and record its exception."""
        try:
            check()
        except Exception as error:
            self.findings.wrong.append(
                f"day {self.findings.day} | {check.__name__} | {type(error).__name__}: {error}"[:1_500]
            )

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        return self.site.rows(query, *parameters)

    def one(self, query: str, *parameters: Any) -> Any:
        return self.site.one(query, *parameters)

    # Schedules and logs

    def schedules(self) -> None:
        """Every schedule ran today, and each run succeeded."""
        before: dict[str, tuple[int, int]] = self.seen.setdefault("tasks", {})
        for task in self.site.schedules:

            def ran(task: str = task) -> bool:
                tasks = self.site.tasks.get(task)
                return tasks is not None and len(tasks.succeeded) > before.get(task, (0, 0))[0]

            try:
                self.site.wait(ran, lambda: "not today")
            except AssertionError:
                self.findings.true("schedules", f"{task} did not succeed today", False)
        self.site.settle()
        for name, tasks in self.site.tasks.items():
            failed = len(tasks.ended - tasks.succeeded)
            self.findings.equal(
                "schedules", f"failed runs of {name}", failed - before.get(name, (0, 0))[1], 0
            )
            before[name] = (len(tasks.succeeded), failed)

    def logs(self) -> None:
        """No line above INFO is unexplained."""
        begin = self.seen.get("lines", 0)
        for line in self.site.lines[begin:]:
            if line.level not in ("BANNER", "DEBUG", "INFO") and not any(
                words in str(line) for words, _ in EXPLAINED
            ):
                self.findings.true("logs", f"unexplained: {str(line)[:700]}", False)
        self.seen["lines"] = len(self.site.lines)

    def calls(self) -> None:
        """Every request that got a response was counted under its source."""
        counted = {
            row.source: (row.requests, row.rejected, row.errors)
            for row in self.rows(
                "SELECT source, sum(requests)::int AS requests, sum(client_errors)::int AS rejected,"
                " sum(errors)::int AS errors FROM monitoring_requestminute GROUP BY source"
            )
        }
        for source, calls in self.site.request_counts.calls.items():
            expected = (calls, self.site.request_counts.rejected[source], 0)
            self.findings.equal("calls", f"{source}: calls, rejected, failed", counted.get(source), expected)

    # The dashboard

    def dashboard(self) -> None:
        """Each panel, for all traffic and for parts of it."""
        end = self.site.clock.now().replace(minute=0, second=0, microsecond=0) + HOUR
        parts = [
            Part(end),
            Part(end, "24h"),
            Part(end, "24h", COMMUNITIES[1]),
            Part(end, "24h", None, "perspective"),
        ]
        for part in parts:
            self._traffic(part)
            self._predictions(part)
            self._quality(part)
            self._queue(part)
        self._fairness(parts[0])
        self._system()

    def _panel(
        self, name: str, part: Part | None = None
    ) -> tuple[dict[str, str], dict[tuple[str, str], list[Any]]]:
        """Return a panel's stats, and its plots' series as (x, y, low, high), from its download."""
        response = self.lea.get(f"/monitoring/{name}.csv{part.query if part else ''}")
        stats, series = {}, defaultdict(list)
        for plot, title, x, y, low, high in list(csv.reader(io.StringIO(response)))[1:]:
            if plot == "stats":
                stats[title] = y
            else:
                series[plot, title].append((x, _number(y), _number(low), _number(high)))
        return stats, series

    def _sentences(self, name: str, part: Part | None = None) -> str:
        """Return the text of a panel, as Dash renders it."""
        query = f"{part.query if part else '?window=7d'}&panel={name}"
        response = self.lea.call(
            "POST", CALLBACK, data=callback_body(query), headers={"Content-Type": "application/json"}
        ).json()
        return " ".join(_strings(response["response"]["content"]["children"]))

    def _series(
        self, page: str, part: Part, series: dict[tuple[str, str], list[Any]], plot: str, title: str,
        expected: dict[datetime, float | None], *, within: float = 1e-9, empty: float | None = 0.0,
    ) -> None:  # fmt: skip
        shown = series.get((plot, title))
        if shown is None:
            self.findings.true(page, f"{plot}: there is no “{title}”", not any(expected.values()))
            return
        for x, y, _, _ in shown:
            hour = datetime.fromisoformat(x)
            wanted = expected.get(hour, empty)
            self.findings.equal(page, f"{plot}, {title}, {hour:%a %H:00}", y, wanted, within=within)

    def _by_hour(self, query: str, part: Part, *parameters: Any) -> dict[datetime, Any]:
        """Return a query's values by hour. It has placeholders for the condition and two times."""
        rows = self.rows(query.format(where=part.where), *parameters, part.begin, part.end)
        return {row[0]: row[1] for row in rows}

    def _traffic(self, part: Part) -> None:
        page = f"dashboard, traffic {part.query}"
        _, series = self._panel("traffic", part)
        rows = self.rows(
            "SELECT date_trunc('hour', p.created_at) AS hour, p.source, v.number AS version, p.latency_us"
            " FROM predictions_prediction p JOIN registry_modelversion v ON v.id = p.model_version_id"
            f" WHERE {part.where} AND p.created_at >= %s AND p.created_at < %s",
            part.begin, part.end,
        )  # fmt: skip
        names = {
            "api": "REST API",
            "connector": "Connected platform",
            "openai": "OpenAI-compatible API",
            "page": "Web page",
            "perspective": "Perspective-compatible API",
        }
        for plot, key in (
            ("by source", lambda row: names[row.source]),
            ("by version", lambda row: f"v{row.version}"),
        ):
            counts: dict[str, Counter[datetime]] = defaultdict(Counter)
            for row in rows:
                counts[key(row)][row.hour] += 1
            for title, expected in counts.items():
                self._series(page, part, series, plot, title, dict(expected))
            shown = {
                title
                for series_plot, title in series
                if series_plot == plot and any(y for _, y, *_ in series[series_plot, title])
            }
            self.findings.equal(page, f"{plot}: names", shown, set(counts))
        latencies: dict[datetime, list[int]] = defaultdict(list)
        for row in rows:
            latencies[row.hour].append(row.latency_us)
        for title, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            expected = {
                hour: value / 1_000
                for hour, values in latencies.items()
                if (value := percentile(values, share, per_decade=10, first=10, last=1e7))
            }
            self._series(page, part, series, "latency", title, expected, within=1e-3, empty=None)
        if part.community is None:
            failed = self.rows(
                "SELECT date_trunc('hour', minute) AS hour, sum(errors)::int AS count FROM"
                " monitoring_requestminute"
                " WHERE errors > 0 AND (%s = '' OR source = %s) GROUP BY 1",
                part.source, part.source,
            )  # fmt: skip
            self._series(page, part, series, "errors", "errors", {row.hour: row.count for row in failed})
        words = self._sentences("traffic", part)
        shown_total = re.search(r"([\d,]+) comments? (?:was|were) scored in this window", words)
        self.findings.equal(
            page, "comments scored", int(shown_total[1].replace(",", "")) if shown_total else 0, len(rows)
        )

    def _predictions(self, part: Part) -> None:
        page = f"dashboard, predictions {part.query}"
        _, series = self._panel("predictions", part)
        for bit, name in enumerate(NAMES):
            expected = self._by_hour(
                f"SELECT date_trunc('hour', p.created_at), avg((p.label_mask >> {bit}) & 1)::float8"
                " FROM predictions_prediction p WHERE {where} AND p.created_at >= %s AND p.created_at < %s"
                " GROUP BY 1",
                part,
            )
            self._series(page, part, series, "flag rate", name, expected, empty=None)
        counts, flagged = self.rows(
            "SELECT count(*), count(*) FILTER (WHERE label_mask > 0) AS flagged FROM predictions_prediction p"
            f" WHERE {part.where} AND created_at >= %s AND created_at < %s", part.begin, part.end,
        )[0]  # fmt: skip
        words = self._sentences("predictions", part)
        if counts:
            self.findings.true(
                page,
                f"says not {flagged / counts:.2%}: {words[:200]}",
                f"{flagged / counts:.2%} of the" in words,
            )
        lengths = Counter(
            min(max(math.floor(math.log10(max(row.length, 1)) * 6 + 1e-9), 0), 29)
            for row in self.rows(
                "SELECT char_length(text) AS length FROM predictions_prediction p"
                f" WHERE {part.where} AND text IS NOT NULL AND created_at >= %s AND created_at < %s",
                part.begin, part.end,
            )
        )  # fmt: skip
        shown = series.get(("lengths", "this window"))
        if shown:
            for index, (_, y, _, _) in enumerate(shown):
                wanted = lengths[index] / lengths.total() if lengths[index] else None
                self.findings.equal(page, f"lengths, bin {index}", y, wanted, within=1e-9)

    def _verdicts(self, part: Part) -> np.ndarray:
        """Return the moderators' labels of reviews and audits: (label, predicted, true, sums of w and w²)."""
        rows = self.rows(
            "SELECT d.action, d.corrected_mask AS mask, u.label AS rule, i.sampling_chance AS chance,"
            " p.label_mask AS predicted FROM moderation_decision d"
            " JOIN moderation_queueitem i ON i.id = d.item_id"
            " JOIN predictions_prediction p ON p.id = d.submission_id"
            " LEFT JOIN moderation_policyrule u ON u.id = d.rule_id"
            " WHERE NOT d.automatic AND d.action IN ('approve', 'reject') AND i.kind IN ('review', 'audit')"
            " AND i.requested_by_id IS NULL"
            " AND NOT EXISTS (SELECT 1 FROM moderation_decision r WHERE r.reverses_id = d.id)"
            f" AND {part.where} AND d.created_at >= %s AND d.created_at < %s",
            part.begin,
            part.end,
        )
        counts = np.zeros((6, 2, 2, 2))
        for row in rows:
            weight = 1 / row.chance
            for bit, true in stated(row.action, row.mask, row.rule).items():
                counts[bit, row.predicted >> bit & 1, int(true)] += (weight, weight**2)
        return counts

    def _feedback(self, part: Part) -> tuple[np.ndarray, int, int]:
        """Return the labels of feedback in the same form, and the numbers of right and wrong results."""
        rows = self.rows(
            "SELECT f.is_right, f.true_mask, f.known_mask, p.label_mask AS predicted FROM"
            " predictions_feedback f"
            f" JOIN predictions_prediction p ON p.id = f.prediction_id WHERE {part.where}"
            " AND f.created_at >= %s AND f.created_at < %s",
            part.begin, part.end,
        )  # fmt: skip
        counts = np.zeros((6, 2, 2, 2))
        for row in rows:
            true, known = row.true_mask, 63 if row.known_mask is None else row.known_mask
            if true is None and row.is_right:
                true, known = row.predicted, 63
            for bit in range(6) if true is not None else ():
                if known >> bit & 1:
                    counts[bit, row.predicted >> bit & 1, true >> bit & 1] += 1
        good = sum(row.is_right for row in rows)
        return counts, good, len(rows) - good

    def _quality(self, part: Part) -> None:
        page = f"dashboard, quality {part.query}"
        _, series = self._panel("quality", part)
        feedback, good, bad = self._feedback(part)
        for plot, counts in (("by moderators", self._verdicts(part)), ("by feedback", feedback)):
            for title, of in (
                ("accuracy", lambda c: (c[0, 0] + c[1, 1], c.sum(axis=(0, 1)))),
                ("precision", lambda c: (c[1, 1], c[1].sum(axis=0))),
                ("recall", lambda c: (c[1, 1], c[:, 1].sum(axis=0))),
            ):
                for (name, y, low, high), label in zip(series.get((plot, title), ()), counts, strict=False):
                    hits, whole = of(label)
                    expected = wilson(hits[0], whole[0], whole[1]) or (None, None, None)
                    for what, shown, wanted in zip(
                        ("", " low", " high"), (y, low, high), expected, strict=True
                    ):
                        self.findings.equal(
                            page, f"{plot}, {title} of {name}{what}", shown, wanted, within=1e-6
                        )
        words = self._sentences("quality", part)
        times = [f"{count:,} time{'' if count == 1 else 's'}" for count in (good, bad)]
        sentence = f"By feedback: right {times[0]}, wrong {times[1]}."
        self.findings.true(page, f"says not: {sentence}; it says {words[:900]}", sentence in words)

    def _queue(self, part: Part) -> None:
        page = f"dashboard, queue {part.query}"
        stats, series = self._panel("queue", part)
        came = self._by_hour(
            "SELECT date_trunc('hour', i.created_at), count(*) FROM moderation_queueitem i"
            " JOIN predictions_prediction p ON p.id = i.submission_id"
            " WHERE {where} AND i.created_at >= %s AND i.created_at < %s GROUP BY 1",
            part,
        )
        decisions = (
            "SELECT date_trunc('hour', d.created_at), count(*) FROM moderation_decision d"
            " JOIN predictions_prediction p ON p.id = d.submission_id"
            " LEFT JOIN moderation_decision b ON b.id = d.reverses_id"
            " WHERE NOT d.automatic AND {of}.action IN ('approve', 'reject') AND {{where}}"
            " AND d.created_at >= %s AND d.created_at < %s GROUP BY 1"
        )
        decided = self._by_hour(decisions.format(of="d"), part)
        reversed_ = self._by_hour(decisions.format(of="b"), part)
        for title, expected in (("added", came), ("decided", decided), ("undone", reversed_)):
            self._series(page, part, series, "flow", title, expected)
        community = "TRUE" if part.community is None else f"community = '{part.community}'"
        depth = self.one(f"SELECT count(*) FROM moderation_queueitem WHERE status = 'open' AND {community}")
        words = self._sentences("queue", part)
        sentence = "1 item is open" if depth == 1 else f"{depth:,} items are open"
        self.findings.true(page, f"says not: {sentence}; it says {words[:300]}", sentence in words)
        done = sum(decided.values())
        for count, verb in (
            (sum(came.values()), f"{'was' if sum(came.values()) == 1 else 'were'} added"),
            (done, f"{'was' if done == 1 else 'were'} decided"),
        ):
            self.findings.true(
                page, f"says not: {count:,} {verb}; it says {words[:300]}", f"{count:,} {verb}" in words
            )
        undone_percent = 100 * sum(reversed_.values()) / sum(decided.values()) if decided else None
        shown = stats.get("Undone", "")
        wanted = (
            "–"
            if undone_percent is None
            else f"{undone_percent:.3g}%"
            if undone_percent < 1
            else f"{undone_percent:.1f}%"
        )
        self.findings.equal(page, "Undone", shown, wanted)
        backlog, expected_open = depth, {}
        for hour in reversed(part.hours()):
            expected_open[hour] = max(0.0, float(backlog))
            backlog -= came.get(hour, 0) + reversed_.get(hour, 0) - decided.get(hour, 0)
        if not part.source:
            self._series(page, part, series, "backlog", "open", expected_open)
        waits = self.rows(
            "SELECT date_trunc('hour', d.created_at) AS hour,"
            " extract(epoch FROM d.created_at - i.created_at)::float8 AS seconds"
            " FROM moderation_decision d JOIN moderation_queueitem i ON i.id = d.item_id"
            " JOIN predictions_prediction p ON p.id = d.submission_id"
            f" WHERE NOT d.automatic AND d.action IN ('approve', 'reject') AND {part.where}"
            " AND d.created_at >= %s AND d.created_at < %s",
            part.begin, part.end,
        )  # fmt: skip
        by_hour: dict[datetime, list[float]] = defaultdict(list)
        for row in waits:
            by_hour[row.hour].append(row.seconds)
        for title, share in (("p50", 0.5), ("p95", 0.95)):
            expected = {
                hour: value / 60
                for hour, values in by_hour.items()
                if (value := percentile(values, share, per_decade=5, first=1, last=1e7))
            }
            self._series(page, part, series, "time to decision", title, expected, within=0.01, empty=None)
        kappas = self._kappas(part.community)
        for (name, y, _, _), label in zip(
            series.get(("agreement", "Cohen's kappa, 90 days"), ()), LABELS, strict=False
        ):
            self.findings.equal(page, f"kappa of {name}", y, kappas[label][0], within=1e-9)

    def _fairness(self, part: Part) -> None:
        page = "dashboard, fairness"
        _, series = self._panel("fairness", part)
        groups = {
            "gay": r"\m(gays?|homosexuals?)\M",
            "muslim": r"\mmuslims?\M",
            "immigrant": r"\mimmigrants?\M",
        }
        for group, pattern in groups.items():
            named, flagged = self.rows(
                "SELECT count(*), count(*) FILTER (WHERE label_mask > 0) AS flagged FROM ("
                "  SELECT text, label_mask, row_number() OVER ("
                "    PARTITION BY floor(extract(epoch FROM created_at) / 360) ORDER BY created_at, id) AS"
                " number"
                "  FROM predictions_prediction WHERE text IS NOT NULL AND created_at >= %s AND created_at <"
                " %s"
                ") AS sampled WHERE number <= 30 AND text ~* %s",
                part.begin, part.end, pattern,
            )[0]  # fmt: skip
            shown = next(
                (row for row in series.get(("flag rate by group", "any label"), ()) if row[0] == group), None
            )
            expected = wilson(flagged, named, named)
            self.findings.equal(page, f"{group}", shown and shown[1], expected and expected[0], within=1e-9)

    def health(self) -> None:
        """The panel with the state of the site, and the requests of the last hour."""
        page = "dashboard, health"
        stats, _ = self._panel("health")
        self.findings.equal(page, "Queue", stats["Queue"], f"{self._open():,}")
        champion = self.one("SELECT number FROM registry_modelversion WHERE alias = 'champion'")
        self.findings.equal(page, "Model", stats["Model"], f"v{champion}")
        alerts = self.one("SELECT count(*) FROM monitoring_alert WHERE closed_at IS NULL")
        self.findings.equal(page, "Alerts", stats["Alerts"], str(min(alerts, 5)))
        now = self.site.clock.now()
        oldest = self.one("SELECT min(created_at) FROM moderation_queueitem WHERE status = 'open'")
        self.findings.true(
            page,
            f"oldest item {stats['Oldest item']}, not {now - oldest if oldest else '–'}",
            stats["Oldest item"] in spans(now - oldest if oldest else None),
        )
        calls = self.one(
            "SELECT coalesce(sum(requests), 0)::int FROM monitoring_requestminute WHERE minute >= %s",
            now - timedelta(hours=1),
        )
        words = self._sentences("health")
        sentence = (
            f"{calls:,} request{' was' if calls == 1 else 's were'} answered in the last hour"
            if calls
            else "No requests were counted in the last hour"
        )
        self.findings.true(page, f"says not: {sentence}; it says {words[:400]}", sentence in words)

    def _system(self) -> None:
        page = "dashboard, system"
        stats, series = self._panel("system")
        waiting = self.one("SELECT count(*) FROM moderation_delivery WHERE status IN ('pending', 'sending')")
        failed = self.one("SELECT count(*) FROM moderation_delivery WHERE status = 'failed'")
        self.findings.equal(page, "Webhooks waiting", stats["Webhooks waiting"], f"{waiting:,}")
        self.findings.equal(page, "Webhooks failed", stats["Webhooks failed"], f"{failed:,}")
        until = self.one("SELECT counted_until FROM monitoring_rollupprogress WHERE origin = 'database'")
        age = self.site.clock.now() - until
        self.findings.true(
            page, f"counted {stats['Last rollup']}, not {age}", stats["Last rollup"] in spans(age)
        )
        count = len(self.site.schedules)
        self.findings.equal(page, "schedules", stats["Schedules"], f"{count} of {count}")
        for queue, y, _, _ in series.get(("broker", "messages"), ()):
            self.findings.equal(
                page, f"messages in {queue}", y, float(self.site.broker.llen(queue)), within=3
            )

    # The console

    def _open(self, communities: Sequence[str] | None = None, where: str = "TRUE", *parameters: Any) -> int:
        limit = "TRUE" if communities is None else "community = ANY(%s)"
        values = [] if communities is None else [list(communities)]
        return self.one(
            f"SELECT count(*) FROM moderation_queueitem WHERE status = 'open' AND {limit} AND {where}",
            *values, *parameters,
        )  # fmt: skip

    def console(self) -> None:
        """Check the sizes of the views of a lead, a moderator and a moderator with one community."""
        for name in ("lea", "ann", LIMITED):
            page = f"console of {name}"
            shown = self._views(self.cast.staff[name])
            expected: dict[str, Counter[str]] = defaultdict(Counter)
            for row in self.rows(
                "SELECT i.queue, i.due_at < %s AS overdue, CASE"
                " WHEN NOT %s AND i.queue IN ('escalated', 'appeal') THEN 'leads only'"
                " WHEN i.excluded_reviewer_id = u.id THEN 'you decided it first'"
                " WHEN i.lease_until > %s AND i.lease_by_id <> u.id THEN 'reserved by others'"
                " WHEN EXISTS (SELECT 1 FROM moderation_skip s WHERE s.item_id = i.id AND s.by_id = u.id"
                "   AND s.created_at > %s) THEN 'skipped by you'"
                " WHEN i.queue = 'escalated' AND i.lease_by_id IS DISTINCT FROM u.id AND u.id = ("
                "   SELECT d.by_id FROM moderation_decision d"
                "   LEFT JOIN moderation_decision r ON r.reverses_id = d.id"
                "   WHERE d.item_id = i.id AND d.action = 'escalate' AND r.id IS NULL"
                "   ORDER BY d.id DESC LIMIT 1) THEN 'escalated by you' ELSE '' END AS unavailable_reason"
                " FROM moderation_queueitem i, accounts_user u"
                " WHERE i.status = 'open' AND u.username = %s AND (%s OR i.community = %s)",
                self.site.clock.now(), name == "lea", self.site.clock.now(),
                self.site.clock.now() - timedelta(days=1), name, name != LIMITED, LIMITED_TO,
            ):  # fmt: skip
                for view in ("all", row.queue, *(["overdue"] if row.overdue else [])):
                    expected[view][row.unavailable_reason] += 1
            for view in ("all", "overdue", *QUEUES):
                counts = expected[view]
                free = counts.pop("", 0)
                wanted = {str(free)}
                if not free and counts:
                    most = max(counts.values())
                    wanted = {f"{most}, {reason}" for reason, count in counts.items() if count == most}
                self.findings.true(
                    page, f"{view}: shown {shown.get(view)}, expected {wanted}", shown.get(view) in wanted
                )

    def _views(self, staff: Staff) -> dict[str, str]:
        response = staff.call("GET", f"{CONSOLE}?view=all", expect=(200, 302))
        page = response.text if response.status_code == 200 else staff.get(response.headers["Location"])
        pairs = re.findall(
            r'(?s)\?view=(\w+)"[^>]*>(?:(?!</a>).)*?<span class="count"[^>]*>(.*?)</span>', page
        )
        return {view: text_of(count) for view, count in pairs}

    def profiles(self) -> None:
        """The statistics on the moderators' profile pages."""
        since = self.site.clock.now() - timedelta(days=30)
        for name in ("ann", "ben", "lea", LIMITED, "pat"):
            page = f"profile of {name}"
            shown = figures_of(self.cast.staff[name].get(f"{CONSOLE}profile/"))
            row = self._statistics_of(name, since)
            self.findings.equal(page, "decisions", _first(shown, "Decisions"), str(row.decisions))
            self.findings.equal(page, "approved", _first(shown, "Approved"), str(row.approved))
            self.findings.equal(page, "rejected", _first(shown, "Rejected"), str(row.rejected))
            self.findings.equal(page, "escalated", _first(shown, "Escalated"), str(row.escalated))
            mean = "–" if not row.seconds else f"{row.seconds:.0f} s"
            self.findings.true(
                page, f"mean time: shown {_first(shown, 'Mean time')}, expected {mean}",
                _close(_first(shown, "Mean time"), row.seconds),
            )  # fmt: skip
            rate = percent(row.overturned / row.kept if row.kept else None, 1)
            decisions = "decision" if row.overturned == 1 else "decisions"
            overturned = f"{rate} {row.overturned} {decisions}"
            self.findings.equal(page, "overturned", _first(shown, "Overturned"), overturned)
            severe = self.one(
                "SELECT count(DISTINCT i.id) FROM moderation_decision d"
                " JOIN accounts_user u ON u.id = d.by_id"
                " JOIN moderation_queueitem i ON i.id = d.item_id WHERE u.username = %s AND d.action <>"
                " 'reverse'"
                " AND i.severity >= 0.5 AND d.created_at >= %s",
                name, self.site.clock.now() - timedelta(hours=8),
            )  # fmt: skip
            self.findings.equal(page, "severe", (_first(shown, "Severe") or "").split()[0], str(severe))

    def _statistics_of(self, name: str, since: datetime) -> Any:
        return self.rows(
            "SELECT count(*) FILTER (WHERE r.id IS NULL) AS decisions,"
            " count(*) FILTER (WHERE r.id IS NULL AND d.action = 'approve') AS approved,"
            " count(*) FILTER (WHERE r.id IS NULL AND d.action = 'reject') AS rejected,"
            " count(*) FILTER (WHERE r.id IS NULL AND d.action = 'escalate') AS escalated,"
            " avg(d.seconds) FILTER (WHERE r.id IS NULL AND d.seconds > 0) AS seconds,"
            " count(*) FILTER (WHERE r.id IS NULL OR r.by_id <> d.by_id) AS kept,"
            " count(*) FILTER (WHERE EXISTS (SELECT 1 FROM moderation_appeal a WHERE a.decision_id = d.id))"
            " AS appealed,"
            " count(*) FILTER (WHERE EXISTS (SELECT 1 FROM moderation_appeal a WHERE a.decision_id = d.id"
            " AND a.status = 'overturned') OR r.by_id <> d.by_id) AS overturned"
            " FROM moderation_decision d JOIN accounts_user u ON u.id = d.by_id"
            " LEFT JOIN moderation_decision r ON r.reverses_id = d.id"
            " WHERE u.username = %s AND d.action <> 'reverse' AND d.created_at >= %s",
            name, since,
        )[0]  # fmt: skip

    def _kappas(self, community: str | None = None) -> dict[str, tuple[float | None, int, int]]:
        """Cohen's kappa of first and second reviews by label, with how many agree of how many."""
        rows = self.rows(
            "SELECT one.action, one.corrected_mask AS mask, r1.label AS rule,"
            " two.action AS action2, two.corrected_mask AS mask2, r2.label AS rule2"
            " FROM moderation_decision two"
            " JOIN moderation_queueitem i ON i.id = two.item_id AND i.kind = 'second'"
            " JOIN moderation_decision one ON one.item_id = i.original_id AND one.id < two.id"
            " LEFT JOIN moderation_policyrule r1 ON r1.id = one.rule_id"
            " LEFT JOIN moderation_policyrule r2 ON r2.id = two.rule_id"
            " WHERE one.action IN ('approve', 'reject') AND two.action IN ('approve', 'reject')"
            " AND NOT EXISTS (SELECT 1 FROM moderation_decision r WHERE r.reverses_id IN (one.id, two.id))"
            " AND (%s::text IS NULL OR i.community = %s)",
            community,
            community,
        )
        kappas = {}
        for bit, label in enumerate(LABELS):
            pairs: Counter[tuple[bool, bool]] = Counter()
            for row in rows:
                one = stated(row.action, row.mask, row.rule)
                two = stated(row.action2, row.mask2, row.rule2)
                if bit in one and bit in two:
                    pairs[one[bit], two[bit]] += 1
            total, agreed = pairs.total(), pairs[False, False] + pairs[True, True]
            kappa = None
            if total:
                first = (pairs[True, False] + pairs[True, True]) / total
                second = (pairs[False, True] + pairs[True, True]) / total
                chance = first * second + (1 - first) * (1 - second)
                kappa = None if chance == 1 else (agreed / total - chance) / (1 - chance)
            kappas[label] = (kappa, agreed, total)
        return kappas

    def quality(self) -> None:
        """Appeals, and how far second reviews agree."""
        page = self.lea.get(f"{CONSOLE}quality/")
        shown = figures_of(page)
        for status in ("open", "upheld", "overturned"):
            count = self.one("SELECT count(*) FROM moderation_appeal WHERE status = %s", status)
            self.findings.equal("quality", f"appeals {status}", shown.get(status.capitalize()), str(count))
        kappas = self._kappas()
        rows = {row[0]: row[1:] for table in tables_of(page) for row in table if len(row) == 3}
        for label, (kappa, agreed, count) in kappas.items():
            expected = ["–" if kappa is None else f"{kappa:.2f}", f"{agreed} of {count}"]
            got = rows.get(label.replace("_", " "))
            if got and kappa is not None:
                got = [got[0].replace("-0.00", "0.00"), got[1]]
                expected[0] = expected[0].replace("-0.00", "0.00")
            self.findings.equal("quality", f"kappa of {label}", got, expected)

    def policies(self) -> None:
        """The simulation of the active default policy."""
        policy, holds_other_languages = self.rows(
            "SELECT id, review_other_languages FROM moderation_policy WHERE community = ''"
            " AND status = 'active'"
        )[0]
        self.findings.true("policy", "it does not hold other languages", holds_other_languages)
        rules = self.rows(
            "SELECT label, review_from, reject_from FROM moderation_policyrule WHERE policy_id = %s", policy
        )
        page = self.lea.get(f"{CONSOLE}policies/{policy}/")
        reached = {
            bound: " OR ".join(
                f"greatest({rule.label}, 1e-30)::float4 >= {getattr(rule, bound)}::float4"
                for rule in rules
                if rule.label and getattr(rule, bound) is not None
            )
            or "FALSE"
            for bound in ("review_from", "reject_from")
        }
        communities = "SELECT community FROM moderation_policy WHERE status = 'active' AND community <> ''"
        count, rejected, reviewed = self.rows(
            "SELECT count(*),"
            f" count(*) FILTER (WHERE NOT is_other AND ({reached['reject_from']})) AS rejected,"
            f" count(*) FILTER (WHERE is_other OR NOT ({reached['reject_from']})"
            f" AND ({reached['review_from']})) AS reviewed"
            " FROM (SELECT *, text IS NOT NULL AND text ~ '^Καλημέρα' AS is_other"
            f" FROM predictions_prediction WHERE community NOT IN ({communities}) ORDER BY id"
            " DESC LIMIT 10000) p"
        )[0]
        shown = figures_of(page)
        if count:
            self.findings.equal("policy", "rejected", shown.get("Rejected"), percent(rejected / count, 1))
            self.findings.equal(
                "policy", "to a human", shown.get("Human review"), percent(reviewed / count, 1)
            )
            approved = 1 - rejected / count - reviewed / count
            self.findings.equal("policy", "approved", shown.get("Approved"), percent(approved, 1))
            self.findings.true(
                "policy", f"not from {count:,} comments", f"newest {count:,} comments" in text_of(page)
            )

    def bulk(self) -> None:
        """The histogram of the open items that a lead can decide in bulk."""
        page = self.lea.get(f"{CONSOLE}bulk/?label=toxic")
        bins = Counter(
            min(int(row.score * 20), 19)
            for row in self.rows(
                "SELECT score FROM moderation_queueitem WHERE status = 'open' AND label = 'toxic'"
                " AND kind NOT IN ('second', 'appeal') AND excluded_reviewer_id IS DISTINCT FROM"
                " (SELECT id FROM accounts_user WHERE username = 'lea')"
            )
        )
        shown = [int(row[1]) for table in tables_of(page) for row in table if len(row) == 2 and "–" in row[0]]
        self.findings.equal("bulk", "histogram", shown, [bins[index] for index in range(20)])

    # Public pages and APIs

    def model_page(self) -> None:
        """The history of the versions and their metrics."""
        visitor = self.cast.staff["vic"]
        page = visitor.get("/model")
        champion = self.rows("SELECT number, metrics FROM registry_modelversion WHERE alias = 'champion'")[0]
        self.findings.true(
            "model page", f"not version {champion.number}", f"Version {champion.number} " in text_of(page)
        )
        names = {label: label.replace("_", " ") for label in LABELS} | {"severe_toxic": "severely toxic"}
        rows = {row[0].lower(): row for row in next(iter(tables_of(page)), [])}
        for label in LABELS:
            metrics = champion.metrics.get(label)
            if not isinstance(metrics, dict):
                continue
            expected = [
                "–" if metrics.get(name) is None else f"{metrics[name]:.{digits}f}"
                for name, digits in DIGITS.items()
            ]
            self.findings.equal("model page", names[label], (rows.get(names[label]) or [])[2:9], expected)
        text = text_of(page)
        promotions = self.rows("SELECT kind, reason FROM registry_promotion")
        for kind, words in (("promote", "Promoted:"), ("rollback", "Rolled back to:")):
            self.findings.equal(
                "model page", words, text.count(words), sum(row.kind == kind for row in promotions)
            )
        for promotion in promotions:  # staff write the reasons for staff
            self.findings.true(
                "model page", f"shows “{promotion.reason}”", " ".join(promotion.reason.split()) not in text
            )
        for version in self.rows("SELECT number FROM registry_modelversion"):
            self.findings.true(
                "model page", f"v{version.number} is not listed", f">v{version.number}</a>" in page
            )
            visitor.get(f"/model/v{version.number}")
        shown = {row[0]: row[1] for table in tables_of(page) for row in table if len(row) == 4}
        for code, entry in json.loads((FOLDER / MANIFEST).read_text())["languages"].items():
            name = "Chinese" if code == "zh" else get_language_info(code)["name"]
            self.findings.equal("model page", name, shown.get(name), entry["state"])

    def reading(self) -> None:
        """Comments that are not in English are read, and not all others."""
        rows = self.rows(
            "SELECT text ~ '^(Danke für|Gracias por|Du bist|Καλημέρα)' AS foreign_text,"
            " sum(was_read::int) AS read, count(*) AS total FROM predictions_prediction"
            " WHERE text IS NOT NULL GROUP BY 1"
        )
        read = {row.foreign_text: (row.read, row.total) for row in rows}
        # The end of each comment is in English, so the language of some is not certain.
        of_foreign, foreign = read.get(True, (0, 1))
        self.findings.true(
            "predictions", f"{of_foreign} of {foreign} foreign comments were read", of_foreign > 0.9 * foreign
        )
        some, total = read.get(False, (0, 0))
        self.findings.true("predictions", f"{some} of {total} English comments were read", 0 < some < total)

    def held_languages(self) -> None:
        """The policy sends comments in a language that the model does not score to moderators."""
        outcomes = self.rows(
            "SELECT s.outcome, count(*) AS count FROM moderation_submission s JOIN predictions_prediction p"
            " ON p.id = s.prediction_id WHERE p.text ~ '^Καλημέρα' GROUP BY 1"
        )
        self.findings.equal("languages", "outcomes", [row.outcome for row in outcomes], ["human_review"])

    def results(self) -> None:
        """The probabilities on the pages that visitors were shown."""
        rows = self.rows(
            f"SELECT id, {', '.join(LABELS)} FROM predictions_prediction WHERE source = 'page' AND text IS"
            " NOT NULL"
            " ORDER BY id DESC LIMIT 5"
        )
        for row in rows:
            page = self.cast.staff["vic"].get(f"/r/{row.id}")
            shown = re.findall(r'(?s)<span class="name">.*?</span>\s*<span class="value">(.*?)</span>', page)
            self.findings.equal(
                "result page", str(row.id), [_public(value) for value in shown],
                [_public(_percent(getattr(row, label))) for label in LABELS],
            )  # fmt: skip

    def api(self) -> None:
        """The statistics of the API."""
        app = self.cast.apps["ann"]
        now = self.site.clock.now()
        shown = app.api("GET", "stats")
        since = datetime.fromisoformat(shown["since"])
        self.findings.equal(
            "API stats", "since", since, now.replace(minute=0, second=0, microsecond=0) - HOUR
        )
        count, toxic = self.rows(
            "SELECT count(*), count(*) FILTER (WHERE label_mask > 0) AS toxic FROM predictions_prediction"
            " WHERE created_at >= %s",
            since,
        )[0]
        feedback = self.one("SELECT count(*) FROM predictions_feedback WHERE created_at >= %s", since)
        champion = self.one("SELECT number FROM registry_modelversion WHERE alias = 'champion'")
        for name, expected in (
            ("predictions", count), ("toxic", toxic), ("feedback", feedback), ("model_version", champion)
        ):  # fmt: skip
            self.findings.equal("API stats", name, shown[name], expected)
        shown = app.api("GET", "moderation/stats")
        views = {view["view"]: view for view in shown["views"]}
        for queue in QUEUES:
            self.findings.equal(
                "API moderation/stats", queue, views[queue]["count"], self._open(None, "queue = %s", queue)
            )
        self.findings.equal("API moderation/stats", "all", views["all"]["count"], self._open())
        for status, value in shown["appeals"].items():
            expected = self.one("SELECT count(*) FROM moderation_appeal WHERE status = %s", status)
            self.findings.equal("API moderation/stats", f"appeals {status}", value, expected)
        row = self._statistics_of("ann", now - timedelta(days=30))
        for name, expected in (
            ("decisions", row.decisions),
            ("appealed", row.appealed),
            ("overturned", row.overturned),
        ):
            self.findings.equal("API moderation/stats", f"own {name}", shown["moderator"][name], expected)
        models = {model["version"]: model["alias"] for model in app.api("GET", "models")}
        expected_models = {
            row.number: row.alias for row in self.rows("SELECT number, alias FROM registry_modelversion")
        }
        self.findings.equal("API models", "aliases", models, expected_models)
        for name, platform in self.cast.platforms.items():
            for row in self.rows(
                "SELECT p.id, p.text, p.label_mask, p.community FROM predictions_prediction p"
                " JOIN accounts_apikey k ON k.id = p.api_key_id WHERE k.name = %s ORDER BY p.id DESC LIMIT 2",
                f"{name}-platform",
            ):
                record = platform.api("GET", f"predictions/{row.id}")
                labels = {label: bool(row.label_mask >> bit & 1) for bit, label in enumerate(LABELS)}
                expected = (row.text, labels, row.community)
                self.findings.equal(
                    "API predictions",
                    str(row.id),
                    (record["text"], record["labels"], record["community"]),
                    expected,
                )

    def metrics(self) -> None:
        """The metrics for Prometheus."""
        self.site.settle()  # so that all requests are counted in the database
        response = self.cast.staff["vic"].call(
            "GET", "/metrics", headers={"Authorization": f"Bearer {METRICS_TOKEN}"}
        )
        shown: dict[str, float] = {}
        for line in response.text.splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                shown[name] = float(value)
        for queue in QUEUES:
            expected = self._open(None, "queue = %s", queue)
            self.findings.equal(
                "/metrics",
                f"queue {queue}",
                shown.get(f'toxicmod_queue_items{{queue="{queue}"}}', 0.0),
                expected,
            )
        for name, query in (
            ("toxicmod_model_version", "SELECT number FROM registry_modelversion WHERE alias = 'champion'"),
            (
                "toxicmod_webhooks_pending",
                "SELECT count(*) FROM moderation_delivery WHERE status IN ('pending', 'sending')",
            ),
            (
                "toxicmod_webhooks_failed",
                "SELECT count(*) FROM moderation_delivery WHERE status = 'failed'",
            ),
            ("toxicmod_alerts_open", "SELECT count(*) FROM monitoring_alert WHERE closed_at IS NULL"),
        ):
            self.findings.equal("/metrics", name, shown.get(name), float(self.one(query)))
        self.findings.equal(
            "/metrics", "incomplete hours", shown.get("toxicmod_rollup_incomplete_hours"), 0.0
        )
        failing = [
            name for name, value in shown.items() if name.startswith("toxicmod_schedule_failing") and value
        ]
        self.findings.equal("/metrics", "failing schedules", failing, [])
        for source, calls in self.site.request_counts.calls.items():
            total = sum(
                value for name, value in shown.items()
                if name.startswith("toxicmod_requests_total{") and f'source="{source}"' in name
            )  # fmt: skip
            self.findings.equal("/metrics", f"requests of {source}", total, float(calls))
            count = shown.get(f'toxicmod_request_seconds_count{{source="{source}"}}')
            self.findings.equal("/metrics", f"seconds of {source}", count, float(calls))

    def challenger(self) -> None:
        """The numbers of the canary or the challenger."""
        page = self.lea.get("/admin/training/trainingrun/challenger/")
        words = text_of(page)
        canary = self.rows(
            "SELECT c.created_at, c.version_id, v.number FROM registry_canary c JOIN registry_modelversion v"
            " ON v.id = c.version_id WHERE NOT EXISTS (SELECT 1 FROM registry_canaryend e WHERE e.canary_id"
            " = c.id)"
        )
        if canary:
            served = self.one(
                "SELECT count(*) FROM predictions_prediction WHERE model_version_id = %s AND created_at >="
                " %s",
                canary[0].version_id, canary[0].created_at,
            )  # fmt: skip
            self.findings.true(
                "challenger", f"not {served} comments: {words[:600]}", f"scored {served} comments" in words
            )
        challenger = self.rows(
            "SELECT id, number FROM registry_modelversion WHERE alias IN ('canary', 'challenger') ORDER BY"
            " alias"
        )
        if challenger:
            count = self.one(
                "SELECT count(*) FROM training_shadowscore s JOIN predictions_prediction p ON p.id ="
                " s.prediction_id"
                " JOIN registry_modelversion v ON v.id = p.model_version_id"
                " WHERE s.version_id = %s AND v.alias = 'champion'",
                challenger[0].id,
            )
            if count:
                self.findings.true(
                    "challenger", f"not the same {count}: {words[:900]}", f"same {count} comments" in words
                )

    # Webhooks, mail and exports

    def webhooks(self) -> None:
        """Every platform got the current outcome of its comments, with valid signatures."""
        receiver = self.cast.receiver
        self.findings.equal("webhooks", "faults of signatures", receiver.faults, [])
        outcomes: dict[str, Any] = {}
        events = Counter(
            receipt.delivery for receipt in receiver.accepted() if "decision_id" in receipt.payload
        )
        for receipt in receiver.accepted():
            if "decision_id" in receipt.payload:
                outcomes[receipt.payload["prediction_id"]] = receipt.payload["outcome"]
        self.findings.equal("webhooks", "sent twice", {key: n for key, n in events.items() if n > 1}, {})
        for row in self.rows(
            "SELECT s.prediction_id::text AS id, (SELECT d.action FROM moderation_decision d LEFT JOIN"
            " moderation_queueitem i ON i.id = d.item_id WHERE d.submission_id = s.prediction_id"
            " AND d.action IN ('approve', 'reject') AND (i.kind IS NULL OR i.kind <> 'second')"
            " AND NOT EXISTS (SELECT 1 FROM moderation_decision r WHERE r.reverses_id = d.id)"
            " ORDER BY d.id DESC LIMIT 1) AS current FROM moderation_submission s WHERE s.callback_url <> ''"
            " AND EXISTS (SELECT 1 FROM moderation_delivery v JOIN moderation_decision d ON d.id ="
            " v.decision_id"
            "   WHERE d.submission_id = s.prediction_id AND v.status = 'delivered')"
            " AND NOT EXISTS (SELECT 1 FROM moderation_delivery v JOIN moderation_decision d ON d.id ="
            " v.decision_id"
            "   WHERE d.submission_id = s.prediction_id AND v.status IN ('pending', 'sending', 'failed'))"
        ):
            self.findings.equal(
                "webhooks", f"outcome of {row.id}", outcomes.get(row.id), row.current or "human_review"
            )
        delivered = self.one("SELECT count(*) FROM moderation_delivery WHERE status = 'delivered'")
        self.findings.equal("webhooks", "delivered", len(events), delivered)
        page = text_of(self.lea.get(f"{CONSOLE}webhooks/"))
        for status, pattern, none in (
            ("status = 'failed'", r"([\d,]+) webhooks? failed", "No webhook has failed"),
            ("status = 'pending' AND attempts > 0", r"([\d,]+) (?:is|are) being retried", ""),
        ):
            count = self.one(
                "SELECT count(*) FROM moderation_delivery v LEFT JOIN moderation_decision d"
                f" ON d.id = v.decision_id WHERE {status}"
                f" AND NOT {awaits_second_review('lea', 'd.submission_id')}"
            )
            shown = re.search(pattern, page)
            self.findings.equal(
                "webhooks page", status, shown and int(shown[1].replace(",", "")), count or None
            )
            self.findings.true("webhooks page", f"says not: {none}", count or none in page)

    def revisions(self) -> None:
        """Every text of a comment is stored once, as a revision of the one before; retries are not stored."""
        for name, platform in self.cast.platforms.items():
            stored: dict[str, list[str]] = defaultdict(list)
            for row in self.rows(
                "SELECT s.external_id, p.text, s.previous_id = lag(s.prediction_id) OVER ("
                " PARTITION BY s.external_id ORDER BY s.revision) AS is_linked, s.revision"
                " FROM moderation_submission s JOIN predictions_prediction p ON p.id = s.prediction_id"
                " JOIN accounts_apikey k ON k.id = s.api_key_id"
                " WHERE k.name = %s AND s.external_id <> '' ORDER BY s.revision",
                f"{name}-platform",
            ):
                stored[row.external_id].append(row.text)
                self.findings.true(
                    "revisions", f"{row.external_id} is not linked", row.is_linked or row.revision == 1
                )
            self.findings.equal("revisions", f"texts of {name}", dict(stored), platform.revisions)
        self.findings.equal(
            "revisions", "open reviews of replaced texts",
            self.one(
                "SELECT count(*) FROM moderation_queueitem i JOIN moderation_submission s"
                " ON s.previous_id = i.submission_id WHERE i.status = 'open' AND i.kind <> 'appeal'"
            ),
            0,
        )  # fmt: skip
        retries = self.one(
            "SELECT count(*) FROM (SELECT 1 FROM predictions_prediction WHERE source = 'perspective'"
            " AND external_id <> '' GROUP BY api_key_id, external_id, text_hash HAVING count(*) > 1) AS r"
        )
        self.findings.equal("revisions", "comments of Perspective that are stored twice", retries, 0)

    def connectors(self) -> None:
        """Each comment of a connected platform is stored, and Discourse got each action once and in order."""
        total = 0
        for name, connected in self.cast.connected.items():
            stored: dict[str, list[str]] = defaultdict(list)
            for row in self.rows(
                "SELECT s.external_id, p.text FROM connectors_receivedcomment r"
                " JOIN connectors_connection c ON c.id = r.connection_id"
                " JOIN moderation_submission s ON s.prediction_id = r.submission_id"
                " JOIN predictions_prediction p ON p.id = s.prediction_id"
                " WHERE c.platform = %s AND s.community = c.community ORDER BY s.revision, p.id",
                name,
            ):
                stored[row.external_id].append(row.text)
            self.findings.equal("connectors", f"comments of {name}", dict(stored), connected.revisions)
            total += sum(map(len, connected.revisions.values()))
        count = self.one("SELECT count(*) FROM predictions_prediction WHERE source = 'connector'")
        self.findings.equal("connectors", "predictions", count, total)
        pending = "SELECT count(*) FROM connectors_platformaction WHERE status <> 'delivered'"
        self.site.wait(lambda: not self.one(pending), lambda: "actions are pending or have failed", 60)
        actions: dict[str, list[str]] = defaultdict(list)
        expected: dict[str, list[str]] = defaultdict(list)
        for post, kind in self.cast.receiver.actions:
            actions[post].append(kind)
        for row in self.rows(
            "SELECT s.external_id, a.kind FROM connectors_platformaction a"
            " JOIN moderation_submission s ON s.prediction_id = a.comment_id ORDER BY a.id"
        ):
            expected[row.external_id].append(row.kind)
        self.findings.true("connectors", "Discourse got no action", actions)
        self.findings.equal("connectors", "actions of Discourse", dict(actions), dict(expected))
        for row in self.rows(
            "SELECT s.external_id, (SELECT d.action FROM moderation_decision d LEFT JOIN"
            " moderation_queueitem i ON i.id = d.item_id WHERE d.submission_id = s.prediction_id"
            " AND d.action IN ('approve', 'reject') AND (i.kind IS NULL OR i.kind <> 'second')"
            " AND NOT EXISTS (SELECT 1 FROM moderation_decision r WHERE r.reverses_id = d.id)"
            " ORDER BY d.id DESC LIMIT 1) AS current"
            " FROM connectors_receivedcomment c"
            " JOIN moderation_submission s ON s.prediction_id = c.submission_id"
            " JOIN connectors_connection n ON n.id = c.connection_id WHERE n.platform = 'discourse'"
            " AND NOT EXISTS (SELECT 1 FROM moderation_submission x WHERE x.previous_id = s.prediction_id)"
        ):
            last = actions[row.external_id][-1:]
            wanted = [["flag"]] if row.current is None else [["reject"]]
            wanted = [[], ["approve"]] if row.current == "approve" else wanted
            self.findings.true(
                "connectors", f"post {row.external_id}: {last}, decided {row.current}", last in wanted
            )

    def mail(self) -> None:
        """Each e-mail of an alert was sent once."""
        sent = self.one(
            "SELECT count(*) FROM monitoring_notification WHERE channel = 'email' AND sent_at IS NOT NULL"
        )
        folder = self.site.folder / "mail"
        count = sum(path.read_text(errors="replace").count("Subject: ") for path in folder.iterdir())
        self.findings.equal("mail", "e-mails", count, sent)
        late = self.one(
            "SELECT count(*) FROM monitoring_notification WHERE sent_at IS NULL AND send_after < %s",
            self.site.clock.now() - timedelta(minutes=2),
        )
        self.findings.equal("mail", "notices that are late", late, 0)

    def export(self) -> None:
        """The export has each decision with its labels, except those of open blind reviews."""
        response = self.lea.get(f"{CONSOLE}decisions.csv?days=30&automatic=on")
        shown = {
            row["decision"]: (
                row["action"],
                row["by"],
                row["community"],
                row["author"].lstrip("'"),
                row["reverses"],
                row["labels"],
            )
            for row in csv.DictReader(io.StringIO(response))
        }
        expected = {}
        for row in self.rows(
            "SELECT d.id, d.action, coalesce(u.username, 'policy') AS by, s.community, coalesce(a.ref, '')"
            " AS author,"
            " d.reverses_id, d.corrected_mask FROM moderation_decision d"
            " JOIN moderation_submission s ON s.prediction_id = d.submission_id"
            " LEFT JOIN accounts_user u ON u.id = d.by_id LEFT JOIN moderation_author a ON a.id = s.author_id"
            f" WHERE NOT {awaits_second_review('lea', 'd.submission_id')}"
        ):
            labels = "" if row.corrected_mask is None else " ".join(
                label for bit, label in enumerate(LABELS) if row.corrected_mask >> bit & 1
            )  # fmt: skip
            reverses = str(row.reverses_id or "")
            expected[str(row.id)] = (row.action, row.by, row.community, row.author, reverses, labels)
        self.findings.equal("export", "number of decisions", len(shown), len(expected))
        for key in expected.keys() & shown.keys():
            self.findings.equal("export", f"decision {key}", shown[key], expected[key])

    def intents(self) -> None:
        """The stored decisions are those that the moderators made."""
        for intent in self.cast.intents:
            rows = self.rows(
                "SELECT d.action, EXISTS (SELECT 1 FROM moderation_decision r WHERE r.reverses_id = d.id)"
                " AS undone"
                " FROM moderation_decision d JOIN accounts_user u ON u.id = d.by_id"
                " WHERE u.username = %s AND d.item_id = %s AND d.action <> 'reverse' ORDER BY d.id",
                intent.by, intent.item,
            )  # fmt: skip
            intents = [
                other for other in self.cast.intents if (other.by, other.item) == (intent.by, intent.item)
            ]
            expected = [(other.action, other.undone) for other in intents]
            stored = [(row.action, row.undone) for row in rows]
            if intent is intents[0]:
                self.findings.equal(
                    "decisions",
                    f"{intent.by} on item {intent.item}: action, whether undone",
                    stored,
                    expected,
                )

    # The admin

    def admin(self) -> None:
        """A superuser can read every list and rows of every kind, and the lists count rightly."""
        root = self.cast.staff["root"]
        models = sorted(set(re.findall(r'href="(/admin/(\w+)/(\w+)/)"', root.get("/admin/"))))
        self.findings.true("admin", f"only {len(models)} lists", len(models) > 15)
        for url, app, model in models:
            response = root.call("GET", url, expect=(200, 302, 403, 404, 500))
            if response.status_code != 200:
                self.findings.true("admin", f"{url} responds {response.status_code}", False)
                continue
            count = re.search(r'(?s)class="paginator"[^>]*>(.*?)</(?:p|nav|div)>', response.text)
            table = f"{app}_{model}"
            exists = self.one("SELECT count(*) FROM information_schema.tables WHERE table_name = %s", table)
            if count and exists:
                numbers = re.findall(r"([\d,]+)\s+[a-zA-Z]", text_of(count[1]))
                rows = self.one(f'SELECT count(*) FROM "{table}"')
                shown = int(numbers[-1].replace(",", "")) if numbers else None
                self.findings.true(
                    "admin", f"{url} shows {shown}, there are {rows}", shown in (rows, min(rows, CAP))
                )
            if exists:
                self._details(root, url, table)

    def _details(self, root: Staff, url: str, table: str) -> None:
        """Open one row of each kind that was not opened yet: of each combination of its short columns."""
        columns = self.rows(
            "SELECT c.column_name AS name, c.data_type AS type, coalesce(character_maximum_length, 0) AS"
            " length"
            " FROM information_schema.columns c WHERE table_name = %s", table,
        )  # fmt: skip
        key = self.rows(
            "SELECT a.attname AS name FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid"
            " AND a.attnum = ANY(i.indkey) WHERE i.indrelid = %s::regclass AND i.indisprimary",
            f'"{table}"',
        )[0].name
        short = [
            f'"{column.name}"::text'
            for column in columns
            if column.name not in (key, *UNIQUE)
            if column.type == "boolean" or 0 < column.length <= 20
        ]
        opened: set[Any] = self.seen.setdefault(f"details of {table}", set())
        combination = f"ARRAY[{', '.join(short)}]" if short else "ARRAY['all']"
        rows = self.rows(
            f'SELECT DISTINCT ON (kind) {combination}::text AS kind, "{key}" AS key FROM "{table}"'
            " ORDER BY kind, key DESC"
        )
        fresh = [row for row in rows if row.kind not in opened][:DETAILS]
        for row in fresh:
            opened.add(row.kind)
            response = root.call("GET", f"{url}{row.key}/change/", expect=(200, 302, 403, 404, 500))
            self.findings.equal("admin", f"{url}{row.key}/change/ {row.kind}", response.status_code, 200)

    def roles(self) -> None:
        """Each list that the admin offers to a user opens."""
        for name in ("lea", "eli", "vic", "ann"):
            staff = self.cast.staff[name]
            for url in sorted(set(re.findall(r'href="(/admin/\w+/\w+/)"', staff.get("/admin/")))):
                response = staff.call("GET", url, expect=(200, 302, 403, 404, 500))
                self.findings.equal(f"admin of {name}", url, response.status_code, 200)

    def limited_moderator(self) -> None:
        """No page shows a moderator of one community anything of the others."""
        gwen = self.cast.staff[LIMITED]
        models = sorted(set(re.findall(r'href="(/admin/\w+/\w+/)"', gwen.get("/admin/"))))
        self.findings.true("limited moderator", "sees no list", models)
        console = ("profile/", "quality/", "policies/", "webhooks/", "bulk/", "decisions.csv?automatic=on")
        pages = [
            *models,
            *(f"{CONSOLE}{path}" for path in console),
            f"{CONSOLE}search/?q={HIDDEN[0]}-author-1",
            "/admin/",
            "/monitoring/",
            "/monitoring/queue.csv",
            "/admin/training/trainingrun/challenger/",
        ]
        pages += [f"{CONSOLE}?view={view}" for view in ("all", "overdue", *QUEUES)]
        for url in models:
            page = gwen.get(url)
            last = [int(number) for number in re.findall(r"\?p=(\d+)", page)]
            pages += [f"{url}?p={number}" for number in range(2, min(max(last, default=1), 6) + 1)]
            pages += re.findall(rf'href="({re.escape(url)}[^"/]+/change/)', page)[:4]
        for path in pages:
            response = gwen.call("GET", html.unescape(path), expect=(200, 302, 403, 404))
            hops = 0
            while response.status_code == 302 and hops < 3:
                hops += 1
                response = gwen.call("GET", response.headers["Location"], expect=(200, 302, 403, 404))
            for word in HIDDEN:
                body = (
                    response.text.replace(f"{HIDDEN[0]}-author-1", "") if "search" in path else response.text
                )
                self.findings.true("limited moderator", f"{path} shows “{word}”", word not in body)
        for table, url in (
            ("predictions_prediction", "/admin/predictions/prediction"),
            ("moderation_queueitem", f"{CONSOLE}item"),
            ("moderation_queueitem", "/admin/moderation/queueitem"),
            ("moderation_author", "/admin/moderation/author"),
        ):
            row = self.rows(
                f"SELECT id FROM {table} WHERE community = %s ORDER BY id DESC LIMIT 1", HIDDEN[0]
            )
            for hidden in row:
                path = f"{url}/{hidden.id}/" + ("change/" if "console" not in url else "")
                response = gwen.call("GET", path, expect=(200, 302, 403, 404))
                self.findings.true(
                    "limited moderator",
                    f"{path} responds {response.status_code}",
                    response.status_code != 200,
                )


def awaits_second_review(name: str, submission: str) -> str:
    """Return the condition that a user may review a comment blind, and so must not see its decisions."""
    return (
        "EXISTS (SELECT 1 FROM moderation_queueitem b WHERE b.kind = 'second' AND b.status = 'open'"
        f" AND b.submission_id = {submission} AND b.excluded_reviewer_id IS DISTINCT FROM"
        f" (SELECT n.id FROM accounts_user n WHERE n.username = '{name}'))"
    )


def _number(cell: str) -> float | None:
    return float(cell) if cell not in ("", "None") else None


def _first(shown: dict[str, str], begin: str) -> str | None:
    return next((value for term, value in shown.items() if term.startswith(begin)), None)


def _close(shown: str | None, seconds: float | None) -> bool:
    if seconds is None or not shown or shown == "–":
        return (shown or "–") == "–" and not seconds
    return abs(float(shown.split()[0]) - seconds) <= 0.51


def _strings(node: Any) -> Iterator[str]:
    """Yield the texts of Dash's components."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, list):
        for child in node:
            yield from _strings(child)
    elif isinstance(node, dict):
        props = node.get("props", node)
        yield from _strings(props.get("children", []))


def spans(age: timedelta | None) -> set[str]:
    """Return the texts with which the dashboard may show a duration that was measured some seconds ago."""
    if age is None:
        return {"–"}
    texts = set()
    for second in range(-20, 3):
        seconds = max(age.total_seconds() + second, 0)
        for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
            if seconds >= size:
                texts.add(f"{seconds / size:.1f} {unit}")
                break
        else:
            texts.add(f"{seconds:.0f} s")
    return texts


def _percent(probability: float) -> str:
    if probability < 0.01:
        return "under 1%"
    if probability > 0.99:
        return "over 99%"
    return f"{100 * probability:.0f}%"


def _public(value: str) -> str:
    return text_of(value).replace(" ", "").replace("\u202f", "").replace("\xa0", "")
