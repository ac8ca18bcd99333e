"""Error responses of the Perspective API with the messages that its clients look for, and other errors."""

from collections.abc import Sequence
from typing import Any

from apps.accounts.models import APIKey
from apps.api.problems import RETRY_SECONDS, shorten
from apps.core.exceptions import ToxicmodError

SERVICE = "commentanalyzer.googleapis.com"
_SERVICE_ERROR = "type.googleapis.com/google.commentanalyzer.v1alpha1.Error"
_ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo"
_BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
# google.rpc.Code by HTTP status
_STATUS_NAMES = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
}


class PerspectiveError(Exception):
    """An error response: HTTP status code, Google's status name, message and details."""

    def __init__(
        self,
        code: int,
        status: str,
        message: str,
        details: Sequence[dict[str, Any]] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after
        self.body: dict[str, Any] = {"error": {"code": code, "message": message, "status": status}}
        if details:
            self.body["error"]["details"] = list(details)


class ComparisonError(ToxicmodError):
    """The file with past scores, or the service, can't be used; the message says why."""


def invalid_argument(
    message: str, error_type: str | None = "INVALID_REQUEST", **details: Any
) -> PerspectiveError:
    """Return an error of the service itself; without an error type it has no details."""
    items = [{"@type": _SERVICE_ERROR, "errorType": error_type, **details}] if error_type else []
    return PerspectiveError(400, "INVALID_ARGUMENT", shorten(message), items)


def language_not_supported(attribute: str, languages: Sequence[str], requested: bool) -> PerspectiveError:
    """Return the error for an attribute that the model can't score in these languages.

    Args:
        requested: whether the request names the languages; otherwise they were detected.
    """
    name = "requestedLanguages" if requested else "detectedLanguages"
    return invalid_argument(
        f"Attribute {attribute} does not support request languages: {', '.join(languages)}",
        "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
        languageNotSupportedByAttributeError={name: list(languages), "attribute": attribute},
    )


def bad_request(message: str, violations: Sequence[dict[str, str]]) -> PerspectiveError:
    """Return the error for a body or parameter that doesn't fit the API's schema."""
    return PerspectiveError(
        400, "INVALID_ARGUMENT", message, [{"@type": _BAD_REQUEST, "fieldViolations": list(violations)}]
    )


def invalid_json(reason: str) -> PerspectiveError:
    """Return the error for a body that isn't JSON."""
    message = f"Invalid JSON payload received. {reason}"
    return bad_request(message, [{"description": message}])


def invalid_api_key() -> PerspectiveError:
    """Return the error for an API key that is unknown or revoked."""
    return PerspectiveError(
        400,
        "INVALID_ARGUMENT",
        "API key not valid. Please pass a valid API key.",
        [
            {
                "@type": _ERROR_INFO,
                "reason": "API_KEY_INVALID",
                "domain": "googleapis.com",
                "metadata": {"service": SERVICE},
            }
        ],
    )


def invalid_token() -> PerspectiveError:
    """Return the error for a bearer token that is no API key; Google's clients then refresh their token."""
    return PerspectiveError(
        401,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or "
        "other valid authentication credential. See "
        "https://developers.google.com/identity/sign-in/web/devconsole-project.",
        [
            {
                "@type": _ERROR_INFO,
                "reason": "ACCESS_TOKEN_TYPE_UNSUPPORTED",
                "domain": "googleapis.com",
                "metadata": {"service": SERVICE},
            }
        ],
    )


def missing_api_key() -> PerspectiveError:
    """Return the error for a request without an API key."""
    return PerspectiveError(
        403,
        "PERMISSION_DENIED",
        "Method doesn't allow unregistered callers (callers without established identity). "
        "Please use API Key or other form of API consumer identity to call this API.",
    )


def method_blocked(method: str) -> PerspectiveError:
    """Return the error for an API key that lacks the scope of a method."""
    return PerspectiveError(
        403,
        "PERMISSION_DENIED",
        f"Requests to this API {SERVICE} method "
        f"google.commentanalyzer.v1alpha1.CommentAnalyzer.{method} are blocked.",
        [
            {
                "@type": _ERROR_INFO,
                "reason": "API_KEY_SERVICE_BLOCKED",
                "domain": "googleapis.com",
                "metadata": {"service": SERVICE},
            }
        ],
    )


def quota_exceeded(key: APIKey | None, limit: int, seconds: float) -> PerspectiveError:
    """Return the error for a request beyond a rate limit.

    Args:
        key: the API key, or None for an anonymous request, whose consumer is 0.
        limit: requests per minute.
        seconds: the time until the next request is within the limit.
    """
    consumer = key.pk if key else 0
    return PerspectiveError(
        429,
        "RESOURCE_EXHAUSTED",
        "Quota exceeded for quota metric 'Analysis requests (AnalyzeComment)' and limit 'Analysis requests "
        f"(AnalyzeComment) per minute' of service '{SERVICE}' for consumer 'project_number:{consumer}'.",
        [
            {
                "@type": _ERROR_INFO,
                "reason": "RATE_LIMIT_EXCEEDED",
                "domain": "googleapis.com",
                "metadata": {
                    "service": SERVICE,
                    "consumer": f"projects/{consumer}",
                    "quota_limit": "AnalyzeRequestsPerMinutePerProject",
                    "quota_limit_value": str(limit),
                    "quota_location": "global",
                    "quota_metric": "CommentAnalyzerService/analyze_requests",
                },
            },
            {
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [
                    {
                        "description": "Request a higher quota limit.",
                        "url": "https://cloud.google.com/docs/quota#requesting_higher_quota",
                    }
                ],
            },
        ],
        retry_after=seconds,
    )


def from_error(error: ToxicmodError) -> PerspectiveError:
    """Return the error response for an error of an action."""
    if error.status in _STATUS_NAMES:
        return PerspectiveError(error.status, _STATUS_NAMES[error.status], shorten(str(error)))
    return unavailable() if error.status == 503 else internal()


def not_found() -> PerspectiveError:
    """Return the error for a path or HTTP method that the API doesn't have."""
    return PerspectiveError(404, "NOT_FOUND", "Method not found.")


def unavailable() -> PerspectiveError:
    """Return the error while no model is in service or the database fails; nothing was stored."""
    return PerspectiveError(
        503, "UNAVAILABLE", "The service is currently unavailable.", retry_after=RETRY_SECONDS
    )


def internal() -> PerspectiveError:
    """Return the error for a defect of the server."""
    return PerspectiveError(500, "INTERNAL", "Internal error encountered.")
