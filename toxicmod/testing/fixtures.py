"""Fixtures of every test: a champion in the database, clients, real servers."""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import hypothesis
import pytest
import requests
from django.conf import settings
from django.core.cache import cache
from django.test import override_settings
from playwright.sync_api import Browser
from pytest_django import DjangoDbBlocker
from pytest_django.live_server_helper import LiveServer

from apps.accounts import actions as accounts
from apps.accounts.actions import create_api_key
from apps.accounts.limits import rate_limiter
from apps.accounts.models import APIKey
from apps.registry import serving
from apps.registry.actions import install_base_model
from apps.registry.models import Alias, ModelVersion
from toxicmod.postgresql import base as postgresql
from toxicmod.testing import aws as amazon
from toxicmod.testing import browser as browsers
from toxicmod.testing import servers

# What an example takes depends on who else is at work.
hypothesis.settings.register_profile("toxicmod", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("toxicmod")

if settings.REDIS_URL:
    # Processes that share a Redis keep caches of their own in it, apart from what is counted there.
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
    """Forget that an earlier test has seen the database down, before the fixtures connect to it."""
    postgresql.outage.end()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Forget that the test itself has seen the database down, before the fixtures clean up."""
    postgresql.outage.end()


@pytest.fixture(scope="session", autouse=True)
def _plain_static_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Serve static files under their own names, so that tests need no collected ones."""
    plain = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    storages = settings.STORAGES | {"staticfiles": plain}
    with override_settings(STORAGES=storages, STATIC_ROOT=tmp_path_factory.mktemp("static")):
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Keep SQLite's test database in a file: threads have connections of their own, as in service."""
    database = settings.DATABASES["default"]
    if database["ENGINE"].endswith("sqlite3"):
        database.setdefault("TEST", {})["NAME"] = str(tmp_path_factory.mktemp("database") / "test.sqlite3")


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> None:
    """Give the test database its champion once."""
    with django_db_blocker.unblock():
        install_base_model()


def _begin_early(period: int, seconds: float) -> None:
    left = period - time.time() % period
    if left < seconds:
        time.sleep(left)


@pytest.fixture
def one_hour() -> None:
    """Let the test begin and end in the same hour."""
    _begin_early(3600, 30)


@pytest.fixture
def one_minute() -> None:
    """Let the test begin and end in the same minute."""
    _begin_early(60, 5)


@pytest.fixture(autouse=True)
def _own_cache() -> None:
    """Begin each test without what another has left in the cache."""
    cache.clear()


@pytest.fixture(autouse=True)
def _own_champion(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin each test that has a database with the champion in service that this database holds."""
    monkeypatch.setattr(serving._serving, "_checked", float("-inf"))
    if request.node.get_closest_marker("django_db") or "db" in request.fixturenames:
        request.getfixturevalue("champion")
        serving.current()


@pytest.fixture(autouse=True)
def _nobody_known() -> None:
    """Begin each test with no key looked up and a rate limiter that has seen nobody."""
    accounts._found.clear()
    rate_limiter.cache_clear()


@pytest.fixture
def champion(db: None) -> ModelVersion:
    """The champion, installed again where a transactional test had emptied the database."""
    install_base_model()
    version = ModelVersion.objects.with_alias(Alias.CHAMPION)
    assert version is not None
    return version


@pytest.fixture
def api_key(db: None) -> tuple[APIKey, str]:
    """A key with every scope, and its secret."""
    return create_api_key(name="test")


@pytest.fixture
def auth(api_key: tuple[APIKey, str]) -> dict[str, Any]:
    """The headers of a request that is made with the key."""
    return {"headers": {"Authorization": f"Api-Key {api_key[1]}"}}


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL of the session's own."""
    with servers.postgres() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """A real Redis-protocol server of the session's own."""
    with servers.redis() as url:
        yield url


@pytest.fixture(scope="session")
def _moto() -> Iterator[str]:
    with amazon.moto() as url:
        yield url


@pytest.fixture
def aws(_moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[amazon.Way]:
    """The way to an empty AWS, by the standard chain; it can be made bad."""
    requests.post(f"{_moto}/moto-api/reset", timeout=30)
    with amazon.way(_moto) as way:
        for name, value in amazon.ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", way.url)
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the first credentials it found
        yield way


@pytest.fixture
def bucket_of(aws: amazon.Way) -> Callable[[str], Any]:
    """Make a bucket that encrypts with a key of its own, as ours do; return an S3 client."""

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
    """Headless Chromium; the test is skipped where there is none."""
    if browsers.chromium_path() is None:
        pytest.skip("NO BROWSER TEST RAN: there is no Chromium here (`apt-get install chromium`)")
    with pytest.MonkeyPatch.context() as patch:
        # Playwright runs an event loop in this thread, which Django would take for asynchronous code.
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
    for opened in visits:
        opened.page.context.close()
