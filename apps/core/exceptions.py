"""The base class of every error that an action reports to its caller.

Each interface (console, pages, REST API, Perspective-compatible API, command line) maps it to its response.
"""

from django.core.exceptions import PermissionDenied


class ToxicmodError(Exception):
    """An action failed. The message says why and what to do, in terms that suit every interface.

    Attributes:
        status: the HTTP status that describes the error.
    """

    status = 400


class PermissionDeniedError(ToxicmodError, PermissionDenied):
    """The actor may not do this. Django's own handlers respond to it as to `PermissionDenied`."""

    status = 403
