"""Two-factor authentication of staff: a code from an app (TOTP, RFC 6238) or a recovery code."""

from base64 import b32encode
from binascii import unhexlify

from django.db import transaction
from django_otp.plugins.otp_static.models import StaticDevice, StaticToken
from django_otp.plugins.otp_totp.models import TOTPDevice, default_key

from apps.accounts.exceptions import TwoFactorError
from apps.accounts.models import User

RECOVERY_CODES = 10
TOTP_DIGITS = 6  # recovery codes are longer


generate_key = default_key


def format_key(key: str) -> str:
    """Return a key for typing it into an app: Base32 in groups of four."""
    text = b32encode(unhexlify(key)).decode()
    return " ".join(text[index : index + 4] for index in range(0, len(text), 4))


def build_url(user: User, key: str) -> str:
    """Return the `otpauth:` URL of a key, which an app can scan."""
    return TOTPDevice(user=user, key=key).config_url


def is_enabled(user: User) -> bool:
    """Return whether the user signs in with a code besides the password."""
    return TOTPDevice.objects.filter(user=user, confirmed=True).exists()


def count_recovery_codes(user: User) -> int:
    """Return the number of recovery codes that the user has not used."""
    return StaticToken.objects.filter(device__user=user).count()


def enable(*, user: User, key: str, code: str) -> list[str]:
    """Require a code at each sign-in of the user; return the recovery codes, which can't be shown again.

    Raises:
        TwoFactorError: two-factor authentication is on already, or the code does not match the key.
    """
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if is_enabled(user):
            raise TwoFactorError(
                "Two-factor authentication is on already. Switch it off first to set up another phone."
            )
        device = TOTPDevice.objects.create(user=user, name="App", key=key)
        if not device.verify_token(_normalize(code)):
            raise TwoFactorError("The code does not match. Check the phone's clock and try the next code.")
        recovery = StaticDevice.objects.create(user=user, name="Recovery codes")
        tokens = [StaticToken.random_token() for _ in range(RECOVERY_CODES)]
        StaticToken.objects.bulk_create(StaticToken(device=recovery, token=token) for token in tokens)
    return tokens


def disable(user: User) -> None:
    """Let the user sign in with the password alone."""
    TOTPDevice.objects.filter(user=user).delete()
    StaticDevice.objects.filter(user=user).delete()


def verify(*, user: User, code: str) -> None:
    """Check that a code is the user's and has not been used; a recovery code is used up.

    Raises:
        TwoFactorError: the code is missing or wrong, or there were too many wrong codes.
    """
    code = _normalize(code)
    if not code:
        raise TwoFactorError("Enter the code from your app, or a recovery code.")
    device_class = TOTPDevice if len(code) == TOTP_DIGITS else StaticDevice
    with transaction.atomic():  # an exception here would roll back the count of wrong codes
        device = device_class.objects.select_for_update().filter(user=user, confirmed=True).first()
        is_allowed = device is not None and device.verify_is_allowed()[0]
        is_verified = is_allowed and device.verify_token(code)
    if device is not None and not is_allowed:
        raise TwoFactorError(
            "Too many wrong codes. The wait starts at one second and doubles with each of them. Try again "
            "later, or ask an administrator to switch two-factor authentication off."
        )
    if not is_verified:
        raise TwoFactorError("This code is wrong or was used before. Enter the next one.")


def _normalize(code: str) -> str:
    return "".join(code.split()).lower()
