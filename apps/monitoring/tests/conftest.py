"""People and a policy, as moderation's tests have them."""

from apps.moderation.tests.conftest import ann, ben, lea, model, person, policy  # noqa: F401
