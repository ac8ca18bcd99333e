"""Limits on sign-in attempts behind a reverse proxy such as nginx."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
import time_machine
from axes.models import AccessAttempt
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Permission
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from apps.accounts import limits, sign_in, two_factor
from apps.accounts.exceptions import TwoFactorError
from apps.accounts.models import User

PASSWORD = "correct horse battery staple"  # pragma: allowlist secret
VICTIM, ATTACKER, ELSEWHERE = "198.51.100.20", "203.0.113.66", "192.0.2.5"


@pytest.fixture(autouse=True)
def limiter(
    request: pytest.FixtureRequest, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Keep the counts in memory, in Redis, or in memory because Redis is down."""
    store = getattr(request, "param", "memory")
    urls = {"memory": "", "redis is down": "redis://127.0.0.1:1/0"}
    settings.REDIS_URL = request.getfixturevalue("redis_url") if store == "redis" else urls[store]
    settings.TRUSTED_PROXIES = 1
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    limits.rate_limiter.cache_clear()
    if store == "redis":
        limits.rate_limiter()._shared.storage.reset()
    yield
    limits.rate_limiter.cache_clear()


@pytest.fixture
def ann(db: None) -> User:
    return User.objects.create_user("ann", password=PASSWORD, is_staff=True)


def attempt(
    client: Client, name: str, password: str, address: str, forged: str = "", **fields: str
) -> HttpResponse:
    """Sign in through a proxy, which appends the address that it sees to what the client sent."""
    forwarded = f"{forged}, {address}" if forged else address
    return client.post(
        "/admin/login/",
        {"username": name, "password": password, "next": "/admin/", **fields},
        REMOTE_ADDR="127.0.0.1",
        HTTP_X_FORWARDED_FOR=forwarded,
    )


def test_wrong_passwords_lock_only_the_address_that_sent_them(ann: User) -> None:
    statuses = [attempt(Client(), "ann", f"wrong {n}", ATTACKER).status_code for n in range(12)]
    assert statuses[:9] == [200] * 9
    assert statuses[10:] == [429, 429]
    assert attempt(Client(), "ann", PASSWORD, ATTACKER).status_code == 429
    for address in (VICTIM, ELSEWHERE, "127.0.0.1", "2001:db8::1"):
        assert attempt(Client(), "ann", PASSWORD, address).status_code == 302


def test_forged_forwarded_addresses_do_not_help(ann: User) -> None:
    for number in range(12):
        attempt(Client(), "ann", f"wrong {number}", ATTACKER, forged=f"192.0.2.{number}")
    assert attempt(Client(), "ann", PASSWORD, ATTACKER, forged=VICTIM).status_code == 429
    assert attempt(Client(), "ann", PASSWORD, VICTIM).status_code == 302


def test_addresses_of_one_ipv6_network_count_as_one(ann: User) -> None:
    for number in range(12):
        attempt(Client(), "ann", f"wrong {number}", f"2001:db8:1:2::{number:x}")
    assert attempt(Client(), "ann", PASSWORD, "2001:db8:1:2:ffff::1").status_code == 429
    assert attempt(Client(), "ann", PASSWORD, "2001:db8:1:3::1").status_code == 302


@pytest.mark.parametrize("limiter", ["memory", "redis", "redis is down"], indirect=True)
def test_spraying_over_many_names_is_limited_by_address(ann: User) -> None:
    limit = sign_in.ADDRESS_FAILURES.amount
    statuses = [attempt(Client(), f"user{n}", "Summer2026!", ATTACKER).status_code for n in range(limit + 5)]
    assert statuses == [200] * limit + [429] * 5
    response = attempt(Client(), "ann", PASSWORD, ATTACKER)
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 1_800
    assert "Too many sign-in attempts" in response.content.decode()
    assert "minute" in response.content.decode()
    assert attempt(Client(), "ann", PASSWORD, VICTIM).status_code == 302


def test_known_device_is_exempt_from_limits(ann: User) -> None:
    browser = Client()
    assert attempt(browser, "ann", PASSWORD, VICTIM).status_code == 302
    del browser.cookies["sessionid"]
    for number in range(sign_in.ADDRESS_FAILURES.amount):
        attempt(Client(), f"user{number}", "Summer2026!", VICTIM)
    assert attempt(Client(), "ann", PASSWORD, VICTIM).status_code == 429
    assert attempt(browser, "bob", "wrong", VICTIM).status_code == 429
    assert attempt(browser, "ann", PASSWORD, VICTIM).status_code == 302


def test_guessing_from_many_addresses_is_limited_by_name(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_in, "NAME_FAILURES", type(sign_in.NAME_FAILURES)(5))
    browser = Client()
    assert attempt(browser, "ann", PASSWORD, VICTIM).status_code == 302
    del browser.cookies["sessionid"]
    statuses = [attempt(Client(), "ann", f"wrong {n}", f"203.0.113.{n}").status_code for n in range(7)]
    assert statuses == [200] * 5 + [429] * 2
    assert attempt(browser, "ann", PASSWORD, VICTIM).status_code == 302
    assert attempt(Client(), "bob", "wrong", "203.0.113.200").status_code == 200


def test_wrong_codes_count_like_wrong_passwords(ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    def reject(*, user: User, code: str) -> None:
        raise TwoFactorError("wrong")

    monkeypatch.setattr(two_factor, "is_enabled", lambda user: True)
    monkeypatch.setattr(two_factor, "verify", reject)
    limit = sign_in.ADDRESS_FAILURES.amount
    statuses = [
        attempt(Client(), "ann", PASSWORD, ATTACKER, code=f"{n:06}").status_code for n in range(limit + 1)
    ]
    assert statuses == [200] * limit + [429]
    # A sign-in without a code only shows the form for it, which is no failure.
    for _ in range(limit + 1):
        assert attempt(Client(), "ann", PASSWORD, VICTIM).status_code == 200


def test_administrator_releases_locked_account(ann: User, settings: Settings) -> None:
    for number in range(settings.AXES_FAILURE_LIMIT):
        browser = Client(headers={"User-Agent": f"browser {number % 2}"})  # the sum of both counts
        attempt(browser, "ann", "wrong", ATTACKER)
    attempt(Client(), "bob", "wrong", ATTACKER)
    assert attempt(Client(), "ann", PASSWORD, ATTACKER).status_code == 429
    path = "/admin/axes/accessattempt/"
    selected = [str(pk) for pk in AccessAttempt.objects.filter(username="ann").values_list("pk", flat=True)]
    form = {"action": "release", "_selected_action": selected[:1]}

    admin = Client()
    admin.force_login(ann, backend="django.contrib.auth.backends.ModelBackend")
    assert admin.get(path).status_code == admin.post(path, form).status_code == 403
    ann.user_permissions.add(Permission.objects.get(codename="view_accessattempt"))
    admin.post(path, form)
    assert admin.get(path).text.count(">locked<") == len(selected)
    assert admin.get(path).text.count(">not locked<") == 1
    assert attempt(Client(), "ann", PASSWORD, ATTACKER).status_code == 429

    ann.user_permissions.add(Permission.objects.get(codename="delete_accessattempt"))
    admin.post(path, form)
    assert attempt(Client(), "ann", PASSWORD, ATTACKER).status_code == 302
    assert LogEntry.objects.get().user == ann
    with time_machine.travel(timezone.now() + timedelta(minutes=16)):
        assert ">locked<" not in admin.get(path).text


def test_known_device_cookie_is_bound_to_its_name(ann: User) -> None:
    browser = Client()
    attempt(browser, "ann", PASSWORD, VICTIM)
    cookie = browser.cookies[sign_in.DEVICE_COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert PASSWORD not in cookie.value
    browser.cookies[sign_in.DEVICE_COOKIE] = cookie.value.replace("ann", "bob")
    assert attempt(browser, "ann", PASSWORD, VICTIM).status_code == 302


@pytest.mark.usefixtures("ann")
@pytest.mark.parametrize(
    ("path", "header", "rejection"),
    [
        ("/api/v1/models/current", {"Authorization": "Api-Key {}"}, 401),
        ("/v1alpha1/comments:analyze", {"X-Goog-Api-Key": "{}"}, 400),
    ],
)
def test_guessing_api_keys_is_limited_by_address(path: str, header: dict[str, str], rejection: int) -> None:
    def call(number: int, address: str) -> int:
        headers = {name: value.format(f"guess-{number}") for name, value in header.items()}
        headers["X-Forwarded-For"] = address
        if path.startswith("/v1alpha1"):
            return Client().post(path, {}, content_type="application/json", headers=headers).status_code
        return Client().get(path, headers=headers).status_code

    limit = limits.UNKNOWN_KEYS.amount
    assert {call(number, ATTACKER) for number in range(limit)} == {rejection}
    assert call(limit, ATTACKER) == 429
    assert call(limit, VICTIM) == rejection
