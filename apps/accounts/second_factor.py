"""A second factor for staff who want one: a code from an app (TOTP, RFC 6238), or a recovery code."""

from base64 import b32encode
from binascii import unhexlify

from django.db import transaction
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice, default_key

from apps.accounts.exceptions import TwoFactorError
from apps.accounts.models import User

RECOVERY_CODES = 10
DIGITS = 6  # of an app's code; a recovery code is longer


new_key = default_key


def readable(key: str) -> str:
    """Return a key as an app takes it typed: Base32 in groups of four."""
    text = b32encode(unhexlify(key)).decode()
    return " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def address(user: User, key: str) -> str:
    """Return the `otpauth:` address of a key, for an app to scan."""
    return TOTPDevice(user=user, key=key).config_url


def is_on(user: User) -> bool:
    """Whether the user signs in with a code besides the password."""
    return TOTPDevice.objects.filter(user=user, confirmed=True).exists()


def codes_left(user: User) -> int:
    """Return how many recovery codes the user has not used."""
    return StaticToken.objects.filter(device__user=user).count()


def switch_on(*, user: User, key: str, code: str) -> list[str]:
    """Ask the user for a code from now on; return the recovery codes, which can't be shown again.

    Raises:
        TwoFactorError: it is on already, or the code isn't the key's.
    """
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if is_on(user):
            raise TwoFactorError("It is on already. Switch it off first to set up another phone.")
        device = TOTPDevice.objects.create(user=user, name="App", key=key)
        if not device.verify_token(_plain(code)):
            raise TwoFactorError(
                "This code is not the one expected. Is the phone's clock right? Try the next."
            )
        recovery = StaticDevice.objects.create(user=user, name="Recovery codes")
        tokens = [StaticToken.random_token() for _ in range(RECOVERY_CODES)]
        StaticToken.objects.bulk_create(StaticToken(device=recovery, token=token) for token in tokens)
    return tokens


def switch_off(user: User) -> None:
    """Ask the user for the password alone from now on."""
    TOTPDevice.objects.filter(user=user).delete()
    StaticDevice.objects.filter(user=user).delete()


def check(*, user: User, code: str) -> None:
    """Make sure that a code is the user's and new; a recovery code is used up.

    Raises:
        TwoFactorError: it isn't, or there were too many wrong ones just now.
    """
    code = _plain(code)
    if not code:
        raise TwoFactorError("Enter the code from your app, or a recovery code.")
    kind = TOTPDevice if len(code) == DIGITS else StaticDevice
    with transaction.atomic():  # not to be left by an error: that would forget the wrong try
        device = kind.objects.select_for_update().filter(user=user, confirmed=True).first()
        allowed = device is not None and device.verify_is_allowed()[0]
        is_right = allowed and device.verify_token(code)
    if device is not None and not allowed:
        raise TwoFactorError(
            "Too many wrong codes: each doubles the wait, which begins with a second. Try again later, "
            "or ask an administrator to switch it off."
        )
    if not is_right:
        raise TwoFactorError("This code is wrong or was used before: take the next one.")


def _plain(code: str) -> str:
    return "".join(code.split()).lower()
