"""The requests and results of `/api/v1/` for webhooks."""

from rest_framework import serializers

from apps.api.fields import AddressField, StrictSerializer
from apps.webhooks.models import SigningKey


class SigningKeyResult(serializers.ModelSerializer):
    class Meta:
        model = SigningKey
        fields = ("key_id", "created_at", "expires_at")


class NewSigningKeyResult(SigningKeyResult):
    secret = serializers.CharField(help_text="The secret for verifying webhooks. It is shown only once.")

    class Meta(SigningKeyResult.Meta):
        fields = (*SigningKeyResult.Meta.fields, "secret")


class RotateRequest(StrictSerializer):
    overlap_hours = serializers.IntegerField(
        min_value=0,
        max_value=720,
        default=24,
        help_text="How long webhooks are also signed with the old key.",
    )


class TestWebhookRequest(StrictSerializer):
    url = AddressField(max_length=500)


class TestWebhookResult(serializers.Serializer):
    is_delivered = serializers.BooleanField()
    is_signed = serializers.BooleanField()
    status = serializers.IntegerField(allow_null=True)
    seconds = serializers.FloatField()
    error = serializers.CharField(help_text="Why the webhook was not delivered; empty if it was.")
    excerpt = serializers.CharField(help_text="The first bytes of the response.")
