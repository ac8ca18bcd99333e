"""URLs of the console, below the admin's page of queue items."""

from django.contrib import admin
from django.urls import URLPattern, path

from apps.moderation.console import bulk, guide, policies, profile, quality, review, search, webhooks

_VIEWS = (
    ("", review.review, "review"),
    ("next/", review.next_item, "next"),
    ("views/", review.views, "views"),
    ("item/<int:pk>/", review.item, "item"),
    ("item/<int:pk>/claim/", review.claim, "claim"),
    ("item/<int:pk>/release/", review.release, "release"),
    ("item/<int:pk>/release-and-next/", review.release_and_next, "release_and_next"),
    ("item/<int:pk>/similar/", review.similar, "similar"),
    ("item/<int:pk>/decide/", review.decide, "decide"),
    ("item/<int:pk>/skip/", review.skip, "skip"),
    ("item/<int:pk>/presence/", review.presence, "presence"),
    ("decision/<int:pk>/undo/", review.undo, "undo"),
    ("decision/<int:pk>/statement.json", quality.statement, "statement"),
    ("decisions.csv", quality.decisions_csv, "decisions_csv"),
    ("search/", search.search, "search"),
    ("bulk/", bulk.bulk, "bulk"),
    ("bulk/<int:pk>/", bulk.job, "job"),
    ("policies/", policies.policies, "policies"),
    ("policies/<int:pk>/", policies.policy, "policy"),
    ("quality/", quality.quality, "quality"),
    ("webhooks/", webhooks.webhooks, "webhooks"),
    ("webhooks/<uuid:pk>/resend/", webhooks.resend, "resend"),
    ("webhooks/resend/", webhooks.resend_all, "resend_all"),
    ("webhooks/signing/<int:pk>/", webhooks.signing, "signing"),
    ("webhooks/signing/<int:pk>/rotate/", webhooks.rotate_signing_key, "rotate_signing_key"),
    ("webhooks/signing/<int:pk>/<slug:key_id>/end/", webhooks.end_signing_key, "end_signing_key"),
    ("webhooks/signing/<int:pk>/test/", webhooks.test_webhook, "test_webhook"),
    ("profile/", profile.profile, "profile"),
    ("help/", guide.guide, "help"),
)


def console_urls() -> list[URLPattern]:
    """Return the console's URL patterns. `admin_view` lets only staff in."""
    return [
        path(f"console/{route}", admin.site.admin_view(view), name=f"moderation_{name}")
        for route, view, name in _VIEWS
    ]
