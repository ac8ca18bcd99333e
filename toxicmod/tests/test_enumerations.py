"""Every component that reads an enumeration handles each value that another component can write.

Each value of each enumeration, and an unknown one, is stored and then read by every reader:
rollups from the database and from DynamoDB, alerts, panels and their downloads, metrics, exports, data sets,
scheduled tasks, every admin list, every page and every API.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.contrib import admin
from django.db import IntegrityError, connection, models, transaction
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from apps.accounts.models import Scope
from apps.connectors import actions as connectors
from apps.connectors.models import Connection, PlatformAction
from apps.connectors.tests.payloads import REQUESTS, SIGNATURE_HEADERS, signature
from apps.mirror.codec import decode_item, encode_item
from apps.mirror.replicated import REPLICATED_MODELS
from apps.moderation import statistics
from apps.moderation.availability import UnavailableReason
from apps.moderation.exceptions import ModerationError
from apps.moderation.models import VIEWS, Appeal, Decision, QueueItem, Submission, decisions
from apps.monitoring import actions, alert_metrics
from apps.monitoring.actions import notifications
from apps.monitoring.dashboard import PANELS, Filters, build_panel
from apps.monitoring.exceptions import IncompleteRollupError, RuleEvaluationError
from apps.monitoring.models import Alert, AlertRule, Notification, RequestMinute
from apps.monitoring.prometheus import exposition
from apps.monitoring.rollups.counter import DECISION_COLUMNS
from apps.pages import results
from apps.registry.models import ModelArtifact, ModelVersion
from apps.training import labels
from toxicmod.testing.endpoints import API_ENDPOINTS, ENDPOINTS, PAGES, build_url

pytestmark = [pytest.mark.django_db, pytest.mark.slow]
UNKNOWN = "other"
# `Scope` is stored in lists, `UnavailableReason` is computed by queries.
WITHOUT_FIELD = {Scope, UnavailableReason}
# Tasks that take long or need MLflow; other tests cover them.
NOT_RUN = {"apps.monitoring.tasks.refresh_baselines", "apps.registry.tasks.sync_tracking"}
# Other columns that a row with this value must have, because of constraints.
REQUIRED_COLUMNS: dict[tuple[str, str, str], dict[str, Any]] = {
    ("moderation_queueitem", "kind", "learn"): {"selection_reason": "uncertainty"},
    ("registry_modelversion", "alias", "canary"): {"share": 0.1},
}


def enumerations() -> set[type[models.Choices]]:
    """Return all enumerations of the project."""
    result, remaining = set(), [models.TextChoices, models.IntegerChoices]
    while remaining:
        subclasses = remaining.pop().__subclasses__()
        remaining += subclasses
        result |= {kind for kind in subclasses if kind.__module__.startswith(("apps.", "toxicmod."))}
    return result


def fields() -> Iterator[tuple[type[models.Model], models.Field, list[str]]]:
    """Yield each column that stores an enumeration, with the enumeration's values."""
    known = {tuple(enumeration.values) for enumeration in enumerations()}
    for model in apps.get_models():
        if model.__module__.startswith("apps."):
            for field in model._meta.concrete_fields:
                values = [value for value, _ in field.flatchoices]
                if tuple(values) in known:
                    yield model, field, values


FIELDS = list(fields())
ROUNDS = max(len(values) for kind, _, values in FIELDS if kind not in (Alert, AlertRule))


def test_every_enumeration_has_a_column() -> None:
    stored = {tuple(values) for _, _, values in FIELDS}
    assert {kind for kind in enumerations() if tuple(kind.values) not in stored} == WITHOUT_FIELD


@pytest.mark.parametrize(
    ("lists", "enumeration"),
    [
        (DECISION_COLUMNS, Decision.Action),
        (alert_metrics.ESTIMATORS, AlertRule.Metric),
        (notifications.SENDERS, Notification.Channel),
        (decisions._PAST_TENSE, Decision.Action),
        ([*results.VERDICTS, Submission.Outcome.NOT_MODERATED], Submission.Outcome),
        (statistics.appeal_counts, Appeal.Status),
    ],
)
@pytest.mark.django_db
def test_lists_of_values_are_complete(lists: Any, enumeration: type[models.Choices]) -> None:
    """A new value of an enumeration needs an entry in each of these."""
    assert set(lists() if callable(lists) else lists) == set(enumeration)


def store(row: models.Model, field: models.Field, value: str) -> bool:
    """Write a value as another release might; return False if a constraint forbids it in this row."""
    table = row._meta.db_table
    columns = {field.column: value} | REQUIRED_COLUMNS.get((table, field.column, value), {})
    assignments = ", ".join(f'"{column}" = %s' for column in columns)
    try:
        with transaction.atomic(), connection.cursor() as cursor:
            pk = row._meta.pk
            cursor.execute(
                f'UPDATE "{table}" SET {assignments} WHERE "{pk.column}" = %s',
                [*columns.values(), pk.get_db_prep_value(row.pk, connection)],
            )
    except IntegrityError:
        return False
    return True


@pytest.fixture
def full(site_data: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """At least one row of each table. Check constraints are off, so that unknown values can be stored."""
    for metric in AlertRule.Metric:
        rule = AlertRule.objects.create(name=f"Rule {metric}", metric=metric, threshold=0.01)
        values = {"threshold": 0.01, "value": 1, "low": 1, "high": 1, "window_hours": 1}
        Alert.objects.create(rule=rule, metric=metric, **values)
    actions.roll_up()
    champion = ModelVersion.objects.get(alias="champion")
    other = ModelVersion.objects.create(
        number=champion.number + 1,
        recipe=champion.recipe,
        sha256=champion.sha256,
        manifest=champion.manifest,
        metrics=champion.metrics,
    )
    artifact = ModelArtifact.objects.filter(version=champion).first()
    if artifact:
        ModelArtifact.objects.create(version=other, manifest=artifact.manifest, weights=artifact.weights)
    RequestMinute.objects.create(
        minute=timezone.now(),
        source="api",
        process="a:1",
        requests=5,
        client_errors=1,
        errors=2,
        latency=[0] * 60,
    )
    monkeypatch.setattr("apps.monitoring.live_metrics.broker_depths", lambda: None)
    Connection.objects.update(base_url="http://127.0.0.1:9")  # nothing responds
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA ignore_check_constraints = ON")
    return site_data


@pytest.fixture(autouse=True)
def _restore_check_constraints() -> Iterator[None]:
    yield
    if connection.vendor == "sqlite" and connection.connection is not None:
        connection.connection.execute("PRAGMA ignore_check_constraints = OFF")


def readers(site_data: dict[str, Any]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield each reader with its name; it raises an exception if it can't handle a value."""
    administrator, moderator = Client(raise_request_exception=True), Client(raise_request_exception=True)
    for client, letter in ((administrator, "a"), (moderator, "m")):
        client.force_login(site_data["people"][letter], backend="django.contrib.auth.backends.ModelBackend")
    for name, (method, roles) in PAGES.items():
        if method == "get":
            url = build_url(ENDPOINTS[name], site_data)
            yield url, lambda url=url: fetch(administrator, url)
            if "m" in roles:
                yield f"{url} as a moderator", lambda url=url: fetch(moderator, url)
    for view in VIEWS:
        yield f"view {view}", lambda view=view: fetch(moderator, f"/admin/moderation/queue/?view={view}")
    for kind in admin.site._registry:
        base = f"/admin/{kind._meta.label_lower.replace('.', '/')}/"
        yield base, lambda base=base: fetch(administrator, base)
        for pk in kind._default_manager.values_list("pk", flat=True)[:2]:
            yield f"{base}{pk}", lambda url=f"{base}{pk}/change/": fetch(administrator, url)
        for _, field, _ in (entry for entry in FIELDS if entry[0] is kind):
            for value in kind._default_manager.order_by().values_list(field.name, flat=True).distinct()[:2]:
                url = f"{base}?{field.name}__exact={value}"
                yield url, lambda url=url: fetch(administrator, url)
    for name, (method, scope) in API_ENDPOINTS.items():
        if method == "get":
            secret = site_data["secrets"].get(scope) or site_data["secrets"]["read"]
            url = build_url(ENDPOINTS[name], site_data)
            queries = [""]
            if name == "v1:queue":
                queries += [f"?status={status}" for status in QueueItem.Status.values]
            for query in queries:
                yield (
                    f"API {url}{query}",
                    lambda url=url + query, secret=secret: fetch(
                        Client(), url, headers={"Authorization": f"Api-Key {secret}"}
                    ),
                )
    moderations = {"input": "Good day"}
    yield "API /v1/moderations", lambda: send("/v1/moderations", moderations, {})
    for connected in Connection.objects.all():
        path = reverse("connectors:receive", args=[connected.pk])
        for platform, (data, headers) in REQUESTS.items():
            signed = {SIGNATURE_HEADERS[platform]: signature(json.dumps(data).encode(), connected.secret)}
            yield (
                f"{connected.platform} receives {platform}",
                lambda path=path, data=data, headers=headers | signed: send(path, data, headers),
            )
        yield (
            f"actions of {connected.platform}",
            lambda pk=connected.pk: connectors.send_actions(connection_id=str(pk)),
        )
    yield from (
        (f"action {action.pk}", lambda action=action: connectors._attempt(action))
        for action in PlatformAction.objects.all()
    )
    for panel in PANELS:
        yield f"panel {panel}", lambda panel=panel: build_panel(panel, Filters())
        yield f"{panel}.csv", lambda panel=panel: fetch(administrator, f"/monitoring/{panel}.csv")
    yield "metrics", exposition
    yield "alert rules", actions.evaluate_rules
    yield "notifications", actions.send_due_notifications
    yield "label events", lambda: [labels.resolve_labels(row) for row in labels.label_events(None)]
    for replicated in REPLICATED_MODELS:
        yield (
            f"mirror {replicated.kind}",
            lambda model=replicated: [decode_item(model, encode_item(model, row)) for row in model.rows()],
        )
    for task in sorted({schedule["task"] for schedule in settings.CELERY_BEAT_SCHEDULE.values()} - NOT_RUN):
        yield task, lambda task=task: run(task)


def fetch(client: Client, url: str, **extra: Any) -> None:
    response = client.get(url, **extra)
    assert response.status_code < 500, response.content[:500]
    b"".join(response) if response.streaming else response.content


def send(path: str, data: Any, headers: dict[str, str]) -> None:
    response = Client().post(path, json.dumps(data), content_type="application/json", headers=headers)
    assert response.status_code < 500, response.content[:500]


def run(task: str) -> None:
    from toxicmod.celery import app

    app.loader.import_default_modules()
    app.tasks[task].run()


def failures(site_data: dict[str, Any], ignored: tuple[type[Exception], ...] = ()) -> list[str]:
    ignored += (ModerationError,)  # in some rounds no policy is active
    messages = []
    for name, reader in readers(site_data):
        with transaction.atomic():
            try:
                reader()
            except ignored:
                pass
            except Exception as error:
                messages.append(f"{name}: {type(error).__name__}: {error}")
            transaction.set_rollback(True)
    return messages


@pytest.mark.parametrize("number", range(ROUNDS))
def test_every_reader_handles_every_value(full: dict[str, Any], number: int) -> None:
    """In each round every column has its next value, in as many rows as the constraints allow."""
    for kind, field, values in FIELDS:
        rows = list(kind._default_manager.order_by("-pk")[:20])
        assert rows, f"the test has no {kind._meta.label}"
        value = values[number % len(values)]
        # Rules and alerts have a row for each metric; elsewhere all rows get the round's value.
        selected = rows[number % len(rows) :][:1] if kind in (Alert, AlertRule) else rows
        written = [store(row, field, value) for row in selected]
        assert any(written) or kind._default_manager.filter(**{field.name: value}).exists(), (kind, value)
    assert not (messages := failures(full)), "\n".join(messages)


def test_every_reader_handles_a_value_of_another_release(full: dict[str, Any]) -> None:
    for kind, field, _ in FIELDS:
        rows = list(kind._default_manager.order_by("-pk")[:20])
        written = [store(row, field, UNKNOWN) for row in rows]
        assert any(written), (kind, field.name)
    messages = failures(full, ignored=(IncompleteRollupError, RuleEvaluationError))
    assert not messages, "\n".join(messages)
