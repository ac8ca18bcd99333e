"""Fixtures of every test: a champion in the database, clients, real servers."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import hypothesis
import pytest
import requests
import time_machine
from axes.models import AccessAttempt
from django.conf import settings
from django.contrib.auth.models import Group
from django.core.cache import cache
from django.test import override_settings
from playwright.sync_api import Browser
from pytest_django import DjangoDbBlocker, Settings
from pytest_django.live_server_helper import LiveServer

from apps.accounts import actions as accounts
from apps.accounts import attribute_counts
from apps.accounts.actions import create_api_key
from apps.accounts.limits import rate_limiter
from apps.accounts.models import APIKey, Scope, User
from apps.core.permissions import SYSTEM
from apps.mirror.models import MirrorState
from apps.moderation import actions as moderation
from apps.moderation import webhooks
from apps.moderation.models import Decision, Policy, PolicyRule, QueueItem
from apps.moderation.roles import create_roles
from apps.monitoring.models import Alert, AlertRule, IncompleteHour, Notification
from apps.predictions.actions import give_feedback
from apps.registry import serving
from apps.registry.actions import install_base_model
from apps.registry.models import Alias, Canary, CanaryEnd, CanaryFailure, ModelVersion
from apps.registry.serving import LoadedModel
from apps.training.actions import create_run
from apps.training.models import Dataset, GateReport
from apps.webhooks.actions import rotate_signing_key
from toxicmod.postgresql import base as postgresql
from toxicmod.testing import aws as aws_server
from toxicmod.testing import browser as browsers
from toxicmod.testing import servers
from toxicmod.testing.factories import (
    AUTOMATIC_REMOVAL,
    ROLES,
    StubScorer,
    connect_platform,
    create_queue_item,
)
from toxicmod.testing.receivers import Receiver, running_receiver

# The time that an example takes depends on the load of the machine.
hypothesis.settings.register_profile("toxicmod", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("toxicmod")

if settings.REDIS_URL:
    # Each test process has its own cache in the shared Redis; database 0 holds the rate limits.
    _number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) + 1
    settings.CACHES["default"]["LOCATION"] = (
        urlsplit(settings.REDIS_URL)._replace(path=f"/{_number}").geturl()
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test that uses the `chromium` fixture as a browser test."""
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Reset the database outage that an earlier test has recorded, before the fixtures connect."""
    postgresql.outage.end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Reset the database outage that the test has recorded, before the fixtures clean up."""
    postgresql.outage.end()


@pytest.fixture(scope="session", autouse=True)
def _plain_static_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Serve static files under their original names, so that tests do not need `collectstatic`."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    storages = settings.STORAGES | {"staticfiles": plain}
    with override_settings(STORAGES=storages, STATIC_ROOT=tmp_path_factory.mktemp("static")):
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep SQLite's test database in a file: each thread has its own connection, as in production."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        database.setdefault("TEST", {})["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Install the base model in the test database once."""
    with django_db_blocker.unblock():
        install_base_model()


@pytest.fixture
def start_of_hour() -> Iterator[None]:
    """Move the clock to the next full hour, so that the test begins and ends in the same hour."""
    next_hour = datetime.now(UTC).replace(minute=0, second=1) + timedelta(hours=1)
    with time_machine.travel(next_hour):
        yield


@pytest.fixture
def frozen_time() -> Iterator[None]:
    """Stop the clock at the start of the next minute."""
    next_minute = datetime.now(UTC).replace(second=1) + timedelta(minutes=1)
    with time_machine.travel(next_minute, tick=False):
        yield


@pytest.fixture(autouse=True)
def _clear_cache() -> None:
    """Clear the cache before each test."""
    cache.clear()


@pytest.fixture(autouse=True)
def _load_champion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the champion of the test database before each test that uses the database."""
    monkeypatch.setattr(serving._server, "_checked_at", float("-inf"))
    monkeypatch.setattr(serving._server, "_pinned", OrderedDict())
    monkeypatch.setattr(serving._server, "_missing", {})
    serving.number_of.cache_clear()
    if request.node.get_closest_marker("django_db") or "db" in request.fixturenames:
        request.getfixturevalue("champion")
        serving.current()


@pytest.fixture(autouse=True)
def _clear_api_key_caches() -> None:
    """Clear the cached API keys, rate limits and counts of attributes before each test."""
    accounts._cache.clear()
    attribute_counts._counts.clear()
    rate_limiter.cache_clear()


@pytest.fixture
def champion(db: None) -> ModelVersion:
    """The champion, installed again if a transactional test has emptied the database."""
    install_base_model()
    version = ModelVersion.objects.with_alias(Alias.CHAMPION)
    assert version is not None
    return version


@pytest.fixture
def api_key(db: None) -> tuple[APIKey, str]:
    """An API key with every scope, and its secret."""
    return create_api_key(actor=SYSTEM, name="test")


@pytest.fixture
def auth(api_key: tuple[APIKey, str]) -> dict[str, Any]:
    """The headers of a request with the API key."""
    return {"headers": {"Authorization": f"Api-Key {api_key[1]}"}}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL for the test session."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A Valkey for the test session."""
    with servers.redis() as url:
        yield url


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    with aws_server.moto() as url:
        yield url


@pytest.fixture
def aws(_moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[aws_server.FaultProxy]:
    """An empty AWS behind a proxy that can inject faults; boto3 uses it."""
    requests.post(f"{_moto}/moto-api/reset", timeout=30)
    with aws_server.fault_proxy(_moto) as proxy:
        for name, value in aws_server.ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # a session keeps its first credentials
        yield proxy


@pytest.fixture
def bucket_of(aws: aws_server.FaultProxy) -> Callable[[str], Any]:
    """Create a bucket with KMS encryption, as Terraform does; return an S3 client."""

    def make(name: str) -> Any:
        client = boto3.client("s3")
        client.create_bucket(
            Bucket=name, CreateBucketConfiguration={"LocationConstraint": client.meta.region_name}
        )
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
        client.put_bucket_encryption(Bucket=name, ServerSideEncryptionConfiguration={"Rules": [rule]})
        return client

    return make


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Headless Chromium; the test is skipped if there is no Chromium."""
    if browsers.chromium_path() is None:
        pytest.skip("NO BROWSER TEST RAN: there is no Chromium here (`apt-get install chromium`)")
    with pytest.MonkeyPatch.context() as patch:
        # Playwright runs an event loop in this thread, so Django would reject synchronous queries.
        patch.setitem(os.environ, "DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        with browsers.chromium() as browser:
            yield browser


@pytest.fixture
def visit(
    chromium: Browser, live_server: LiveServer, champion: ModelVersion
) -> Iterator[Callable[..., browsers.Visit]]:
    """Open pages of the live site: `visit("/", width=390, theme="dark", javascript=False, user=user)`."""
    visits: list[browsers.Visit] = []

    def open_page(path: str = "/", **options: Any) -> browsers.Visit:
        visits.append(browsers.new_page(chromium, live_server.url, **options))
        visits[-1].page.goto(path)
        return visits[-1]

    yield open_page
    for visited in visits:
        visited.page.context.close()


@pytest.fixture
def model(db: None, monkeypatch: pytest.MonkeyPatch) -> ModelVersion:
    """A champion that takes its scores from the text; see `StubScorer`."""
    version = ModelVersion.objects.with_alias(Alias.CHAMPION) or ModelVersion.objects.create(
        number=1, alias=Alias.CHAMPION, recipe="test", sha256="0" * 64, manifest={"thresholds": {}}
    )
    served = LoadedModel(version.pk, version.number, StubScorer())  # type: ignore[arg-type]
    monkeypatch.setattr(serving, "current", lambda: served)
    return version


@pytest.fixture
def policy(db: None) -> Policy:
    """The default policy with automatic removal, without random audits and second reviews."""
    moderation.install_default_policy()
    for label, threshold in AUTOMATIC_REMOVAL.items():
        PolicyRule.objects.filter(label=label).update(reject_from=threshold)
    Policy.objects.update(audit_share=0, reject_audit_share=0, second_review_share=0)
    active = Policy.objects.active_for("")
    assert active is not None
    return active


@pytest.fixture
def person(db: None) -> Callable[..., User]:
    """Create a user with a role."""
    create_roles()

    def make(name: str, role: str = "moderator", *, all_communities: bool = True) -> User:
        user = User.objects.create_user(name, password="correct horse", all_communities=all_communities)
        user.groups.add(Group.objects.get(name=role))
        return User.objects.get(pk=user.pk)

    return make


@pytest.fixture
def ann(person: Callable[..., User]) -> User:
    """A moderator."""
    return person("ann")


@pytest.fixture
def ben(person: Callable[..., User]) -> User:
    """Another moderator."""
    return person("ben")


@pytest.fixture
def lea(person: Callable[..., User]) -> User:
    """A lead."""
    return person("lea", "lead")


@pytest.fixture
def platform_key(db: None) -> APIKey:
    """The API key of a platform."""
    return create_api_key(actor=SYSTEM, name="platform")[0]


@pytest.fixture
def item(model: ModelVersion, policy: Policy, platform_key: APIKey) -> QueueItem:
    """An open queue item whose platform gets a webhook about the decision."""
    return create_queue_item(
        "insult=0.7 you fool", api_key=platform_key, callback_url="https://platform.example/hook"
    )


@pytest.fixture
def receiver(settings: Settings) -> Iterator[Receiver]:
    """A webhook receiver on 127.0.0.1, an address that the setting allows."""
    settings.WEBHOOK_ALLOW_PRIVATE = True
    with running_receiver() as server:
        yield server


@pytest.fixture(scope="session")
def mlflow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one store for all tests, because MLflow takes seconds to create its tables."""
    return tmp_path_factory.mktemp("mlflow")


@pytest.fixture
def mlflow_store(settings: Any, mlflow_folder: Path) -> str:
    """Configure MLflow with a SQLite store and return its URI."""
    settings.MLFLOW_TRACKING_URI = f"sqlite:///{mlflow_folder / 'mlflow.sqlite3'}"
    settings.MLFLOW_ARTIFACTS = str(mlflow_folder / "artifacts")
    return settings.MLFLOW_TRACKING_URI


@pytest.fixture
def mlflow_outage(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Configure MLflow with an address where nothing responds."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    settings.MLFLOW_TRACKING_URI = "http://127.0.0.1:9"


@pytest.fixture
def site_data(item: QueueItem, platform_key: APIKey, person: Callable[..., User]) -> dict[str, Any]:
    """Return one row of each model, a user of each role and a key of each scope."""
    people = {letter: person(role, role) for letter, role in ROLES.items()}
    User.objects.exclude(username="").update(is_staff=True)
    people["n"] = User.objects.create_user("nobody")
    held = moderation.claim(item_id=item.pk, user=people["m"])
    decided = moderation.decide(
        item_id=held.pk,
        version=held.version,
        user=people["m"],
        action=Decision.Action.REJECT,
        rule=held.default_rule(),
    ).decision
    token = webhooks.appeal_token(decided)
    moderation.appeal(token=token)
    rotate_signing_key(api_key=platform_key, actor=people["a"])
    job, _ = moderation.preview_bulk(
        user=people["l"], filter={"label": "insult", "score_from": 0.5}, action=Decision.Action.APPROVE
    )
    moderation.moderate(text="insult=0.99 you fool")  # the policy rejects it automatically
    prediction = item.prediction
    give_feedback(prediction=prediction, is_right=True)
    champion = ModelVersion.objects.get(alias="champion")
    dataset = Dataset.objects.create(
        name="ours", version=1, sha256="0" * 64, source="ours.csv", rows=2, labelled=1, positives={"toxic": 1}
    )
    run = create_run(actor=SYSTEM, dataset=dataset)
    GateReport.objects.create(version=champion, champion=champion, gates=[])
    canary = Canary.objects.create(version=champion, champion=champion, share=0.1, gates=[])
    CanaryEnd.objects.create(canary=canary, outcome="withdrawn", guardrails=[])
    CanaryFailure.objects.create(version=champion, error="OSError")
    MirrorState.objects.create()
    AccessAttempt.objects.create(username="v", ip_address="192.0.2.1", failures_since_start=1)
    rule = AlertRule.objects.create(name="Calls fail", metric="error_share", threshold=0.01)
    alert = Alert.objects.create(
        rule=rule, metric=rule.metric, threshold=0.01, value=1, low=1, high=1, window_hours=1
    )
    IncompleteHour.objects.create(
        origin="database", hour=alert.opened_at, error="ValueError", retry_at=alert.opened_at
    )
    Notification.objects.create(
        alert=alert, event="alert.opened", channel="email", send_after=alert.opened_at
    )
    open_item = create_queue_item("insult=0.7 you other fool", api_key=platform_key)
    connection = connect_platform(decided)
    keys = {
        scope: create_api_key(actor=SYSTEM, name=scope, scopes=[scope], acts_as=people["m"])[1]
        for scope in Scope.values
    }
    return {
        "people": people,
        "secrets": keys,
        "signing": platform_key.pk,
        "decision": decided.pk,
        "policies": Policy.objects.active_for("").pk,  # type: ignore[union-attr]
        "webhooks": decided.deliveries.get().pk,
        "bulk": job.pk,
        "item": open_item.pk,
        "queue": open_item.pk,
        "trainingrun": run.pk,
        "connectors": connection.pk,
        "predictions": prediction.pk,
        "r": prediction.pk,
        "appeal": token,
        "model": champion.number,
        "user": people["v"].pk,
        "monitoring": "health",
    }
