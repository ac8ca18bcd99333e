"""Clients of AWS with short timeouts and botocore's own retries. All calls to AWS start here.

Credentials, region and endpoint come from botocore's standard chain: environment, profile or instance role.
The function imports boto3 itself: web processes never call AWS, and boto3 would take 30 MB in each of them.
"""

from typing import Any

MAX_CONNECTIONS = 16
MAX_ATTEMPTS = 4


def client(service: str) -> Any:
    """Return a client, which is thread-safe.

    Args:
        service: `dynamodb` or `s3`.

    Raises:
        botocore.exceptions.NoRegionError: neither AWS_DEFAULT_REGION nor the profile names a region.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2,
        read_timeout=10,
        max_pool_connections=MAX_CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": MAX_ATTEMPTS},
    )
    return boto3.client(service, config=config)
