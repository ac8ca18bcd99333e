"""Preferences of moderators."""

from django.core.exceptions import ValidationError
from django.db import transaction

from apps.accounts.models import User
from apps.moderation.models import Preference


@transaction.atomic
def set_preferences(*, user: User, **fields: bool | int) -> Preference:
    """Store preferences of the user. Fields that are not given keep their values.

    Args:
        fields: masked, greyscale, keys (bool) and exposure_limit (items in a shift).

    Raises:
        ValidationError: an unknown field or a wrong value.
    """
    if unknown := set(fields) - {"masked", "greyscale", "keys", "exposure_limit"}:
        raise ValidationError(f"Unknown preferences: {', '.join(sorted(unknown))}.")
    preference = Preference.for_user(user)
    for name, value in fields.items():
        setattr(preference, name, value)
    preference.full_clean(exclude=["user"], validate_unique=False)
    return Preference.objects.update_or_create(
        user=user,
        defaults={
            name: getattr(preference, name) for name in ("masked", "greyscale", "keys", "exposure_limit")
        },
    )[0]
