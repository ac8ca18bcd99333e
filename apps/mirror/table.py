"""The table in DynamoDB: its schema, and how its errors are reported."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from apps.core import aws
from apps.mirror.exceptions import MirrorError

INDEX = "by_time"


@contextmanager
def translate_aws_errors() -> Iterator[None]:
    """Raise a MirrorError that says what to do instead of an error of botocore."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise MirrorError(
            f"DynamoDB reported {code}: check the table, the region and the permissions."
        ) from None
    except BotoCoreError as error:
        raise MirrorError(
            f"DynamoDB can't be reached ({error.__class__.__name__}): check AWS_DEFAULT_REGION, the "
            "credentials and the network."
        ) from None


def create_table() -> None:
    """Create the table with the same keys, index, encryption and TTL as Terraform does.

    Raises:
        MirrorError: DynamoDB can't be reached, or the table exists already.
    """
    name = settings.DYNAMODB_TABLE
    with translate_aws_errors():
        client = aws.client("dynamodb")
        client.create_table(
            TableName=name,
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[
                {"AttributeName": attribute, "AttributeType": "S"}
                for attribute in ("prediction", "record", "shard", "at")
            ],
            KeySchema=_key_schema("prediction", "record"),
            GlobalSecondaryIndexes=[
                {
                    "IndexName": INDEX,
                    "KeySchema": _key_schema("shard", "at"),
                    "Projection": {"ProjectionType": "ALL"},
                }
            ],
            SSESpecification={"Enabled": True},
        )
        client.get_waiter("table_exists").wait(TableName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60})
        client.update_time_to_live(
            TableName=name, TimeToLiveSpecification={"Enabled": True, "AttributeName": "expires"}
        )


def _key_schema(partition: str, sort: str) -> list[dict[str, str]]:
    return [
        {"AttributeName": partition, "KeyType": "HASH"},
        {"AttributeName": sort, "KeyType": "RANGE"},
    ]


def oldest_kept() -> datetime:
    """Return the time before which records have expired in the mirror, or expire within an hour."""
    return timezone.now() - timedelta(days=settings.DYNAMODB_TTL_DAYS) + timedelta(hours=1)
