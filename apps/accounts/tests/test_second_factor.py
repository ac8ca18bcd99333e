"""Signing in with a code besides the password."""

import re

import pytest
from django.test import Client
from django_otp.oath import totp

from apps.accounts import second_factor
from apps.accounts.models import User

pytestmark = pytest.mark.django_db

PAGE, LOGIN = "/admin/second-factor/", "/admin/login/?next=/admin/password_change/"


@pytest.fixture
def user() -> User:
    return User.objects.create_user("mia", password="correct horse battery", is_staff=True)


def code_of(key: str, later: int = 0) -> str:
    return f"{totp(bytes.fromhex(key), drift=later):06d}"


def sign_in(code: str | None = None, password: str = "correct horse battery") -> tuple[bool, str]:
    """Return whether it let us in, and what the page said."""
    said = {"username": "mia", "password": password} | ({} if code is None else {"code": code})
    client = Client()
    answer = client.post(LOGIN, said, headers={"user-agent": "test"})
    note = re.search(r'role="alert">(.*?)</p>', answer.content.decode())
    return answer.status_code == 302, note[1] if note else ""


def switch_on(client: Client) -> tuple[str, list[str]]:
    """Switch it on as a person would; return the key and the recovery codes."""
    assert "<svg" in client.get(PAGE).content.decode()
    key = client.session["second_factor_key"]
    answer = client.post(PAGE, {"code": code_of(key)}).content.decode()
    return key, re.findall(r"<li><code>(.*?)</code>", answer)


@pytest.fixture
def enrolled(user: User, client: Client) -> tuple[str, list[str]]:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return switch_on(client)


def test_who_has_none_signs_in_by_password_alone(user: User) -> None:
    assert sign_in() == (True, "")


def test_a_code_is_asked_for_and_each_works_once(enrolled: tuple[str, list[str]]) -> None:
    key, _ = enrolled
    assert sign_in() == (False, "Enter the code from your app, or a recovery code.")
    assert not sign_in(code_of(key))[0], "the code that switched it on was used"
    second_factor.TOTPDevice.objects.update(throttling_failure_count=0)
    assert sign_in(code_of(key, later=1)) == (True, "")
    assert sign_in(code_of(key, later=1)) == (
        False,
        "This code is wrong or was used before: take the next one.",
    )
    assert not sign_in(code_of(key, later=1), password="wrong")[0]


def test_guessing_is_slowed_down_even_for_the_right_code(enrolled: tuple[str, list[str]]) -> None:
    key, _ = enrolled
    right = code_of(key, later=1)
    wrong = f"{(int(right) + 1) % 10**6:06d}"
    assert "wrong" in sign_in(wrong)[1]
    assert sign_in(right) == (False, "Too many wrong codes: wait a moment and try again.")


def test_a_recovery_code_signs_in_once(enrolled: tuple[str, list[str]]) -> None:
    _, codes = enrolled
    assert len(set(codes)) == second_factor.RECOVERY_CODES
    assert sign_in(codes[0].upper())[0]
    assert not sign_in(codes[0])[0]
    user = User.objects.get(username="mia")
    assert second_factor.codes_left(user) == second_factor.RECOVERY_CODES - 1


def test_a_wrong_first_code_switches_nothing_on_and_keeps_the_key(user: User, client: Client) -> None:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    client.get(PAGE)
    key = client.session["second_factor_key"]
    wrong = f"{(int(code_of(key)) + 1) % 10**6:06d}"
    assert "not the one expected" in client.post(PAGE, {"code": wrong}).content.decode()
    assert client.session["second_factor_key"] == key
    assert not second_factor.is_on(user)
    assert client.post(PAGE, {"code": ""}).status_code == 200


def test_a_code_sent_before_the_page_was_seen_switches_nothing_on(user: User, client: Client) -> None:
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    assert "not the one expected" in client.post(PAGE, {"code": code_of("")}).content.decode()
    assert not second_factor.is_on(user)


def test_switching_off_takes_a_code(enrolled: tuple[str, list[str]], user: User, client: Client) -> None:
    key, _ = enrolled
    assert "is wrong" in client.post(PAGE, {"code": "nonsense"}).content.decode()
    assert second_factor.is_on(user)
    assert client.post(PAGE, {"code": code_of(key, later=1)}).status_code == 302
    assert sign_in() == (True, "")
    assert not second_factor.codes_left(user)


def test_a_page_left_open_does_not_set_up_a_second_phone(enrolled: tuple[str, list[str]], user: User) -> None:
    key = second_factor.new_key()
    with pytest.raises(second_factor.SecondFactorError, match="on already"):
        second_factor.switch_on(user=user, key=key, code=code_of(key))


def test_an_administrator_helps_whose_phone_is_lost(
    enrolled: tuple[str, list[str]], user: User, admin_client: Client
) -> None:
    action = {"action": "switch_off_second_factor", "_selected_action": user.pk}
    assert admin_client.post("/admin/accounts/user/", action).status_code == 302
    assert sign_in() == (True, "")
