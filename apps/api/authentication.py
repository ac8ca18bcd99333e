"""Authentication of `/api/v1/` by API keys: `Authorization: Api-Key SECRET`."""

from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.request import Request

from apps.accounts.actions import find_api_key, update_last_used
from apps.accounts.limits import unknown_key_wait
from apps.accounts.models import APIKey


class APIKeyAuthentication(BaseAuthentication):
    """Finds the API key of a request; a request without the header is anonymous."""

    keyword = "Api-Key"

    def authenticate(self, request: Request) -> tuple[APIKey, APIKey] | None:
        """Return the key as `request.user` and as `request.auth`, or None for an anonymous request.

        Raises:
            AuthenticationFailed: the header is malformed, or the key is unknown or revoked.
            Throttled: the address has sent too many unknown keys.
        """
        keyword, _, secret = request.headers.get("Authorization", "").partition(" ")
        if not keyword:
            return None
        if keyword.lower() != self.keyword.lower() or not secret.strip():
            raise AuthenticationFailed("Send the key as `Authorization: Api-Key YOUR-KEY`.")
        key = find_api_key(secret=secret.strip())
        if key is None:
            if (seconds := unknown_key_wait(request._request)) is not None:
                raise Throttled(seconds, "Your address has sent too many unknown API keys.")
            raise AuthenticationFailed("This API key is unknown or revoked.")
        update_last_used(key=key)
        return key, key

    def authenticate_header(self, request: Request) -> str:
        return self.keyword


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
