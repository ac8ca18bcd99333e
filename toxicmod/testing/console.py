"""Helpers for tests of the moderation console."""

from typing import Any

from django.test import Client
from django.urls import reverse

from apps.accounts.models import User
from apps.moderation.models import QueueItem

FETCH = {"X-Requested-With": "fetch"}  # headers of the requests that console.js sends


def console_url(name: str, *args: Any, **query: Any) -> str:
    """Return the URL of a console view."""
    return reverse(f"admin:moderation_{name}", args=args, query=query or None)


def staff_client(user: User) -> Client:
    """Make the user a member of staff and return a client that is signed in as the user."""
    user.is_staff = True
    user.save()
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


def decision_form(item: QueueItem, action: str = "approve", **fields: Any) -> dict[str, Any]:
    """Return the form that the review page sends for the item."""
    item.refresh_from_db()
    rule = item.default_rule()
    form = {"action": action, "version": item.version, "rule": rule.pk if rule else "", "seconds": "3.5"}
    return form | fields
