"""Preferences of moderators."""

from django.db import models

from apps.accounts.models import User
from apps.core.models import bounds


class Preference(models.Model):
    """A moderator's preferences for the console."""

    user = models.OneToOneField(User, primary_key=True, on_delete=models.CASCADE, related_name="+")
    masked = models.BooleanField(default=True, help_text="Hide each comment until it is revealed.")
    greyscale = models.BooleanField(default=False)
    keys = models.BooleanField("Keyboard shortcuts", default=True)
    exposure_limit = models.PositiveSmallIntegerField(
        default=40,
        validators=bounds(0, 10_000),
        help_text="Severe comments in a shift after which the console suggests a break; 0: never.",
    )

    def __str__(self) -> str:
        return f"preferences of {self.user}"

    @classmethod
    def for_user(cls, user: User) -> "Preference":
        """Return the user's preferences, by default unsaved ones. They are cached on the user."""
        if "preference" not in user.__dict__:
            user.__dict__["preference"] = cls.objects.filter(user_id=user.pk).first() or cls(user_id=user.pk)
        return user.__dict__["preference"]
