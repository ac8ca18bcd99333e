"""Authentication by API keys in the header `Authorization`, for the views of Django REST framework."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from apps.accounts.actions import find_api_key, update_last_used
from apps.accounts.limits import unknown_key_wait
from apps.accounts.models import APIKey


class APIKeyAuthentication(BaseAuthentication):
    """Finds the API key of a request; a request without the header is anonymous."""

    keywords: tuple[str, ...] = ("Api-Key",)  # schemes of the header; messages name the first one

    def authenticate(self, request: Request) -> tuple[APIKey, APIKey] | None:
        """Return the key as `request.user` and as `request.auth`, or None for an anonymous request.

        Raises:
            AuthenticationFailed: the header is malformed, or the key is unknown or revoked.
            Throttled: the address has sent too many unknown keys.
        """
        keyword, _, secret = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if not keyword:
            return None
        if keyword.lower() not in map(str.lower, self.keywords) or not secret.strip():
            raise AuthenticationFailed(f"Send the key as `Authorization: {self.keywords[0]} YOUR-KEY`.")
        key = find_api_key(secret=secret.strip())
        if key is None:
            if (seconds := unknown_key_wait(request._request)) is not None:
                raise Throttled(seconds, "Your address has sent too many unknown API keys.")
            raise AuthenticationFailed("This API key is unknown or revoked.")
        update_last_used(key=key)
        return key, key

    def authenticate_header(self, request: Request) -> str:
        return self.keywords[0]


class BearerAuthentication(APIKeyAuthentication):
    """Finds the API key that a client of another API sends as a bearer token."""

    keywords = ("Bearer", "Api-Key")


class APIKeyScheme(OpenApiAuthenticationExtension):
    """The description of the header in the OpenAPI document."""

    target_class = APIKeyAuthentication
    name = "API key"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {
            "type": "apiKey",
            "in": "header",
            "name": "Authorization",
            "description": "`Api-Key` followed by a space and the key.",
        }


class BearerScheme(OpenApiAuthenticationExtension):
    """The description of the bearer token in the OpenAPI document."""

    target_class = BearerAuthentication
    name = "API key as bearer token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:
        return {"type": "http", "scheme": "bearer"}
