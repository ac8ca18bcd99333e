"""The console's paths, below the admin's page of queue items."""

from django.contrib import admin
from django.urls import URLPattern, path

from apps.moderation.console import bulk, desk, people, policies

_PAGES = (
    ("", desk.desk, "desk"),
    ("item/<int:pk>/", desk.item, "item"),
    ("item/<int:pk>/ahead/", desk.ahead, "ahead"),
    ("item/<int:pk>/decide/", desk.decide, "decide"),
    ("item/<int:pk>/skip/", desk.skip, "skip"),
    ("item/<int:pk>/later/", desk.later, "later"),
    ("item/<int:pk>/look/", desk.look, "look"),
    ("decision/<int:pk>/undo/", desk.undo, "undo"),
    ("decision/<int:pk>/statement.json", people.statement, "statement"),
    ("decisions.csv", people.decisions_csv, "decisions_csv"),
    ("search/", desk.search, "search"),
    ("bulk/", bulk.bulk, "bulk"),
    ("bulk/<int:pk>/", bulk.job, "job"),
    ("policies/", policies.policies, "policies"),
    ("policies/<int:pk>/", policies.policy, "policy"),
    ("quality/", people.quality, "quality"),
    ("webhooks/", people.webhooks, "webhooks"),
    ("webhooks/<uuid:pk>/resend/", people.resend, "resend"),
    ("me/", people.me, "me"),
)


def console_urls() -> list[URLPattern]:
    """Return the console's paths, open to staff only."""
    return [
        path(f"console/{route}", admin.site.admin_view(view), name=f"moderation_{name}")
        for route, view, name in _PAGES
    ]
