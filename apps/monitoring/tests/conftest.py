"""People and a policy, as moderation's tests have them."""

from apps.moderation.tests.conftest import ann, ben, model, person, policy  # noqa: F401
