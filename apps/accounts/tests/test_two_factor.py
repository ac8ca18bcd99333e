"""Signing in with a code besides the password."""

import re
from datetime import timedelta
from typing import NamedTuple

import pytest
import time_machine
from django.test import Client
from django.utils import timezone
from django_otp.oath import totp
from pytest_django import Settings

from apps.accounts import sign_in as accounts_sign_in
from apps.accounts import two_factor
from apps.accounts.exceptions import TwoFactorError
from apps.accounts.models import User

pytestmark = pytest.mark.django_db

PAGE, LOGIN = "/admin/two-factor/", "/admin/login/?next=/admin/password_change/"
OVER = "The time to enter the code is over. Enter your username and password again."


@pytest.fixture
def user(settings: Settings) -> User:
    # A fast hasher, because codes and their throttling depend on the time.
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    return User.objects.create_user("mia", password="correct horse battery", is_staff=True)


def totp_code(key: str, drift: int = 0) -> str:
    return f"{totp(bytes.fromhex(key), drift=drift):06d}"


def sign_in(code: str | None = None, password: str = "correct horse battery") -> tuple[bool, str]:
    """Return whether the sign-in succeeded, and the page's error message."""
    data = {"username": "mia", "password": password} | ({} if code is None else {"code": code})
    client = Client()
    response = client.post(LOGIN, data, headers={"user-agent": "test"})
    message = re.search(r'role="alert">(.*?)</p>', response.content.decode())
    return response.status_code == 302, message[1] if message else ""


class Enrolled(NamedTuple):
    """The codes of a user with two-factor authentication: two of the app, the first one used, and others."""

    used: str
    next: str
    recovery: list[str]


@pytest.fixture
def enrolled(user: User, client: Client) -> Enrolled:
    """Enable two-factor authentication on its page."""
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert "<svg" in client.get(PAGE).content.decode()
    key = client.session["two_factor_key"]
    used, following = totp_code(key), totp_code(key, drift=1)
    page = client.post(PAGE, {"code": used, "on": "on"}, follow=True).content.decode()
    return Enrolled(used, following, re.findall(r"<li><code>(.*?)</code>", page))


def test_sign_in_without_two_factor_needs_no_code(user: User) -> None:
    assert sign_in() == (True, "")


def test_sign_in_requires_unused_code(enrolled: Enrolled) -> None:
    assert sign_in() == (False, "Enter the code from your app, or a recovery code.")
    assert not sign_in(enrolled.used)[0], "the code that switched it on was used"
    two_factor.TOTPDevice.objects.update(throttling_failure_count=0)
    assert sign_in(enrolled.next) == (True, "")
    assert sign_in(enrolled.next) == (False, "This code is wrong or was used before. Enter the next one.")
    assert not sign_in(enrolled.next, password="wrong")[0]


@pytest.fixture
def password_step(enrolled: Enrolled) -> Client:
    """A browser in which the user has entered the password."""
    two_factor.TOTPDevice.objects.update(throttling_failure_count=0)
    client = Client()
    html = client.post(LOGIN, {"username": "mia", "password": "correct horse battery"}).text
    assert 'name="code"' in html
    assert "correct horse battery" not in html
    assert 'name="password"' not in html
    return client


def send_code(client: Client, code: str, username: str = "mia") -> tuple[bool, str]:
    """Return whether the second step succeeded, and the page's error message."""
    response = client.post(LOGIN, {"username": username, "code": code})
    message = re.search(r'role="alert">(.*?)</p>', response.text)
    return response.status_code == 302, message[1] if message else ""


def test_code_step_accepts_code_without_password(
    password_step: Client, enrolled: Enrolled, user: User
) -> None:
    assert send_code(password_step, "") == (False, "Enter the code from your app, or a recovery code.")
    assert send_code(password_step, enrolled.next) == (True, "")
    assert password_step.session["_auth_user_id"] == str(user.pk)
    assert "pending_sign_in" not in password_step.session
    assert send_code(Client(), enrolled.recovery[0]) == (False, OVER)


def test_code_step_rejects_and_counts_wrong_codes(
    password_step: Client, enrolled: Enrolled, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures: list[str] = []
    monkeypatch.setattr(accounts_sign_in, "record_failure", lambda request, name: failures.append(name))
    wrong = f"{(int(enrolled.next) + 1) % 10**6:06d}"
    assert "This code is wrong" in send_code(password_step, wrong)[1]
    assert "Too many wrong codes" in send_code(password_step, enrolled.next)[1]
    assert failures == ["mia", "mia"]
    two_factor.TOTPDevice.objects.update(throttling_failure_count=0)
    for number in range(settings.AXES_FAILURE_LIMIT + 1):
        Client().post(LOGIN, {"username": "mia", "password": f"wrong {number}"})
    assert password_step.post(LOGIN, {"username": "mia", "code": enrolled.next}).status_code == 429


def test_code_step_expires(password_step: Client, enrolled: Enrolled, user: User) -> None:
    with time_machine.travel(timezone.now() + timedelta(minutes=6), tick=False):
        assert send_code(password_step, enrolled.recovery[0]) == (False, OVER)
    assert 'name="password"' in password_step.post(LOGIN, {"username": "ben", "code": "1"}).text
    user.set_password("another horse battery")
    user.save()
    assert send_code(password_step, enrolled.recovery[0]) == (False, OVER)


def test_code_step_belongs_to_one_user(password_step: Client, enrolled: Enrolled) -> None:
    ben = User.objects.create_user("ben", password="correct horse battery", is_staff=True)
    assert send_code(password_step, enrolled.recovery[0], username="ben") == (False, OVER)
    device = two_factor.StaticDevice.objects.create(user=ben, name="Recovery codes")
    two_factor.TOTPDevice.objects.create(user=ben, name="App")
    device.token_set.create(token="bens-code")
    password_step.post(LOGIN, {"username": "ben", "password": "correct horse battery"})
    assert send_code(password_step, enrolled.recovery[0]) == (False, OVER), "ben's password was the last one"
    assert send_code(password_step, "bens-code", username="ben") == (True, "")
    assert password_step.session["_auth_user_id"] == str(ben.pk)
    assert send_code(password_step, enrolled.recovery[0]) == (False, OVER)


def test_sign_in_after_wrong_codes_rejects_correct_code(enrolled: Enrolled) -> None:
    wrong = f"{(int(enrolled.next) + 1) % 10**6:06d}"
    assert "wrong" in sign_in(wrong)[1]
    two_factor.TOTPDevice.objects.update(throttling_failure_count=10)
    is_signed_in, message = sign_in(enrolled.next)
    assert not is_signed_in
    assert "Too many wrong codes" in message


def test_verify_accepts_recovery_code_once(enrolled: Enrolled, user: User) -> None:
    assert len(set(enrolled.recovery)) == two_factor.RECOVERY_CODES
    assert sign_in(enrolled.recovery[0].upper())[0]
    assert not sign_in(enrolled.recovery[0])[0]
    assert two_factor.count_recovery_codes(user) == two_factor.RECOVERY_CODES - 1


def test_enable_with_wrong_code_keeps_key(user: User, client: Client) -> None:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    client.get(PAGE)
    key = client.session["two_factor_key"]
    assert "does not match" in client.post(PAGE, {"code": "12345", "on": "on"}).content.decode()
    assert client.session["two_factor_key"] == key
    assert not two_factor.is_enabled(user)
    assert client.post(PAGE, {"code": "", "on": "on"}).status_code == 200


def test_enable_without_key_in_session(user: User, client: Client) -> None:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    page = client.post(PAGE, {"code": totp_code(""), "on": "on"}).content.decode()
    assert "does not match" in page
    assert not two_factor.is_enabled(user)


def test_disable_requires_code(enrolled: Enrolled, user: User, client: Client) -> None:
    assert "is wrong" in client.post(PAGE, {"code": "nonsense", "off": "off"}).content.decode()
    assert two_factor.is_enabled(user)
    assert client.post(PAGE, {"code": enrolled.next, "off": "off"}).status_code == 302
    assert sign_in() == (True, "")
    assert not two_factor.count_recovery_codes(user)


def test_repeated_enable_does_not_disable(enrolled: Enrolled, user: User, client: Client) -> None:
    assert client.post(PAGE, {"code": enrolled.next, "on": "on"}).status_code == 302
    assert two_factor.is_enabled(user)


def test_repeated_enable_shows_recovery_codes_once(user: User, client: Client) -> None:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    client.get(PAGE)
    data = {"code": totp_code(client.session["two_factor_key"]), "on": "on"}
    client.post(PAGE, data)
    assert "Your recovery codes" in client.post(PAGE, data, follow=True).content.decode()
    assert "Your recovery codes" not in client.get(PAGE).content.decode()


def test_enable_when_enabled(enrolled: Enrolled, user: User) -> None:
    key = two_factor.generate_key()
    with pytest.raises(TwoFactorError, match="on already"):
        two_factor.enable(user=user, key=key, code=totp_code(key))


def test_disable_by_administrator(enrolled: Enrolled, user: User, admin_client: Client) -> None:
    action = {"action": "disable_two_factor", "_selected_action": user.pk}
    assert admin_client.post("/admin/accounts/user/", action).status_code == 302
    assert sign_in() == (True, "")
