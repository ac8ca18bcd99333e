"""The people, policy and chosen scores of the moderation tests."""

from apps.moderation.tests.conftest import (  # noqa: F401
    ann,
    ben,
    client_key,
    item,
    lea,
    model,
    person,
    policy,
)
