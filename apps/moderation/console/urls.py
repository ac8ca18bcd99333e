"""The console's paths, below the admin's page of queue items."""

from django.contrib import admin
from django.urls import URLPattern, path

from apps.moderation.console import bulk, desk, guide, people, policies, webhooks

_PAGES = (
    ("", desk.desk, "desk"),
    ("item/<int:pk>/", desk.item, "item"),
    ("next/", desk.following, "next"),
    ("item/<int:pk>/claim/", desk.claim, "claim"),
    ("item/<int:pk>/release/", desk.release, "release"),
    ("item/<int:pk>/similar/", desk.similar, "similar"),
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
    ("webhooks/", webhooks.webhooks, "webhooks"),
    ("webhooks/<uuid:pk>/resend/", webhooks.resend, "resend"),
    ("webhooks/resend/", webhooks.resend_all, "resend_all"),
    ("webhooks/signing/<int:pk>/", webhooks.signing, "signing"),
    ("webhooks/signing/<int:pk>/rotate/", webhooks.rotate_signing_key, "rotate_signing_key"),
    ("webhooks/signing/<int:pk>/<slug:key_id>/end/", webhooks.end_signing_key, "end_signing_key"),
    ("webhooks/signing/<int:pk>/test/", webhooks.test_webhook, "test_webhook"),
    ("me/", people.me, "me"),
    ("help/", guide.guide, "help"),
)


def console_urls() -> list[URLPattern]:
    """Return the console's paths, open to staff only."""
    return [
        path(f"console/{route}", admin.site.admin_view(view), name=f"moderation_{name}")
        for route, view, name in _PAGES
    ]
