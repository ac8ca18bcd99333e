"""Base classes of the tables of every app."""

from typing import Any, NoReturn

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models

MAX_INTEGER = 2**31 - 1  # of PostgreSQL's `integer`
MAX_BIG_INTEGER = 2**63 - 1  # of PostgreSQL's `bigint`


def bounds(minimum: float, maximum: float) -> list[MinValueValidator | MaxValueValidator]:
    """Return the validators of a number that a person enters."""
    message = f"Enter a number from {minimum:,} to {maximum:,}."
    return [MinValueValidator(minimum, message), MaxValueValidator(maximum, message)]


class AppendOnlyError(TypeError):
    """The code tried to change or delete a row that may only be inserted."""


class AppendOnlyQuerySet(models.QuerySet):
    """Rejects bulk changes: a further row corrects the history."""

    def update(self, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError(f"{self.model._meta.verbose_name} rows are append-only.")

    def delete(self) -> NoReturn:
        raise AppendOnlyError(f"{self.model._meta.verbose_name} rows are append-only.")


class AppendOnly(models.Model):
    """A row that can be inserted and read, but not changed or deleted."""

    objects = AppendOnlyQuerySet.as_manager()

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert the row.

        Raises:
            AppendOnlyError: the row exists already.
        """
        if not self._state.adding:
            raise AppendOnlyError(f"{self._meta.verbose_name} rows are append-only.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AppendOnlyError(f"{self._meta.verbose_name} rows are append-only.")


class Leasable(models.Model):
    """A row that one process at a time works on; see `apps.core.leases`."""

    lease_owner = models.UUIDField(null=True, editable=False)
    lease_expires_at = models.DateTimeField(
        null=True, editable=False, help_text="Another process may take over from then on."
    )

    class Meta:
        abstract = True
