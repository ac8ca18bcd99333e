"""The views of `/api/v1/` for webhooks: a platform manages its signing keys and tests its receiver."""

from datetime import timedelta

from drf_spectacular.utils import extend_schema
from rest_framework import exceptions
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import Scope
from apps.api.v1.serializers import webhooks as s
from apps.api.v1.views.moderation import CONFLICTS
from apps.api.v1.views.predictions import PROBLEMS
from apps.webhooks import actions
from apps.webhooks.models import SigningKey


class WebhooksView(APIView):
    """Base of the views for the webhooks of an API key; 409 if another change or test is in progress."""

    scope = Scope.WEBHOOKS
    anonymous = False


class SigningKeysView(WebhooksView):
    """The active signing keys of this API key's webhooks."""

    @extend_schema(responses={200: s.SigningKeyResult(many=True), **PROBLEMS}, operation_id="webhook_keys")
    def get(self, request: Request) -> Response:
        keys = SigningKey.objects.active().filter(api_key=request.auth)
        return Response(s.SigningKeyResult(keys, many=True).data)

    @extend_schema(
        request=s.RotateRequest,
        responses={201: s.NewSigningKeyResult, **CONFLICTS},
        operation_id="rotate_webhook_key",
    )
    def post(self, request: Request) -> Response:
        data = s.RotateRequest.validated(request.data or {})
        key, secret = actions.rotate_signing_key(
            api_key=request.auth,
            actor=request.auth,
            overlap=timedelta(hours=data["overlap_hours"]),
        )
        result = s.SigningKeyResult(key).data | {"secret": secret}
        return Response(result, status=201, headers={"Cache-Control": "no-store"})


class SigningKeyView(WebhooksView):
    """A signing key of this API key's webhooks."""

    @extend_schema(responses={204: None, **CONFLICTS}, operation_id="end_webhook_key")
    def delete(self, request: Request, key_id: str) -> Response:
        if not SigningKey.objects.active().filter(api_key=request.auth, key_id=key_id).exists():
            raise exceptions.NotFound("There is no such active key.")
        actions.end_signing_key(api_key=request.auth, key_id=key_id, actor=request.auth)
        return Response(status=204)


class TestWebhookView(WebhooksView):
    """Send a webhook with the event `test` and return how the receiver responded."""

    @extend_schema(
        request=s.TestWebhookRequest,
        responses={200: s.TestWebhookResult, **CONFLICTS},
        operation_id="test_webhook",
    )
    def post(self, request: Request) -> Response:
        data = s.TestWebhookRequest.validated(request.data)
        attempt = actions.send_test(api_key=request.auth, url=data["url"], actor=request.auth)
        return Response(
            {
                "is_delivered": attempt.is_delivered,
                "is_signed": SigningKey.objects.active().filter(api_key=request.auth).exists(),
                "status": attempt.status,
                "seconds": round(attempt.seconds, 3),
                "error": attempt.error,
                "excerpt": attempt.excerpt,
            }
        )
