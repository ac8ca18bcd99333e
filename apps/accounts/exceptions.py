"""Errors of signing in."""

from apps.core.exceptions import ToxicmodError


class TwoFactorError(ToxicmodError):
    """The code is missing or wrong, or two-factor authentication can't be changed now."""


class TooManySignInsError(ToxicmodError):
    """Too many sign-ins failed, so this one is rejected unchecked.

    Attributes:
        seconds: the time until the next attempt is possible.
    """

    status = 429

    def __init__(self, seconds: float) -> None:
        super().__init__("Too many failed sign-ins. Please try again later.")
        self.seconds = seconds
