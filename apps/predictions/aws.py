"""The only door to AWS: clients with short timeouts and botocore's own retries.

Credentials, region and endpoint come by the standard chain: the environment, a profile, the box's role. Only
who calls AWS imports boto3: it costs 30 MB that no web process should pay.
"""

from typing import Any

THREADS = 16
ATTEMPTS = 4


def client(service: str) -> Any:
    """Return a client, which threads may share.

    Args:
        service: `dynamodb` or `s3`.

    Raises:
        botocore.exceptions.NoRegionError: AWS_DEFAULT_REGION is not set, nor a profile that names one.
    """
    import boto3
    from botocore.config import Config

    config = Config(
        connect_timeout=2,
        read_timeout=10,
        max_pool_connections=THREADS,
        # Throttling, outages and lost connections are tried again after random, doubling waits.
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
    )
    return boto3.client(service, config=config)
