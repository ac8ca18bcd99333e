"""Every URL of the site, and who may use it: roles for pages, scopes for the API."""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from django.urls import URLPattern, URLResolver, get_resolver

DASH = "the_django_plotly_dash:"  # the endpoints of Plotly Dash share one permission check
EVERYBODY = "-nvmlea"  # `-` is anonymous, `n` is signed in but not staff
STAFF = "vmlea"
# Pages: the method of the request and the roles that may make it. A new URL needs a row.
PAGES: dict[str, tuple[str, str]] = {
    "health": ("get", EVERYBODY),
    "ready": ("get", EVERYBODY),
    "metrics": ("get", EVERYBODY),  # 404 without METRICS_TOKEN
    "monitoring:dashboard": ("get", "lea"),
    "monitoring:csv": ("get", "lea"),
    "admin:index": ("get", STAFF),
    "admin:login": ("get", EVERYBODY),
    "admin:logout": ("post", EVERYBODY),
    "admin:two_factor": ("get", STAFF),
    "admin:password_change": ("get", STAFF),
    "admin:password_change_done": ("get", STAFF),
    "admin:autocomplete": ("get", ""),
    "admin:jsi18n": ("get", STAFF),
    "admin:auth_user_password_change": ("get", "a"),
    "admin:view_on_site": ("get", STAFF),
    "admin:moderation_review": ("get", STAFF),
    "admin:moderation_item": ("get", STAFF),
    "admin:moderation_next": ("post", "mla"),
    "admin:moderation_views": ("get", STAFF),
    "admin:moderation_claim": ("post", "mla"),
    "admin:moderation_release": ("post", "mla"),
    "admin:moderation_similar": ("get", "mla"),
    "admin:moderation_decide": ("post", "mla"),
    "admin:moderation_skip": ("post", "mla"),
    "admin:moderation_release_and_next": ("post", "mla"),
    "admin:moderation_presence": ("post", STAFF),
    "admin:moderation_undo": ("post", "mla"),
    "admin:moderation_statement": ("get", "la"),
    "admin:moderation_decisions_csv": ("get", "la"),
    "admin:moderation_search": ("get", STAFF),
    "admin:moderation_bulk": ("get", "la"),
    "admin:moderation_job": ("get", "la"),
    "admin:moderation_policies": ("get", STAFF),
    "admin:moderation_policy": ("get", STAFF),
    "admin:moderation_quality": ("get", STAFF),
    "admin:moderation_webhooks": ("get", "la"),
    "admin:moderation_resend": ("post", "la"),
    "admin:moderation_resend_all": ("post", "la"),
    "admin:moderation_signing": ("get", "a"),
    "admin:moderation_rotate_signing_key": ("post", "a"),
    "admin:moderation_end_signing_key": ("post", "a"),
    "admin:moderation_test_webhook": ("post", "a"),
    "admin:moderation_profile": ("get", STAFF),
    "admin:moderation_help": ("get", STAFF),
    "admin:training_trainingrun_start": ("get", "ea"),
    "admin:training_challenger": ("get", "lea"),
    "admin:training_roll_back": ("get", "lea"),
    "admin:training_trainingrun_run": ("get", "lea"),
    "admin:training_trainingrun_progress": ("get", "lea"),
    "admin:app_list": ("get", STAFF),
    "admin/(?P<url>.*)$": ("get", STAFF),
    "pages:home": ("get", EVERYBODY),
    "pages:live": ("post", EVERYBODY),
    "pages:example": ("get", EVERYBODY),
    "pages:result": ("get", EVERYBODY),
    "pages:feedback": ("post", EVERYBODY),
    "pages:favicon": ("get", EVERYBODY),
    "pages:appeal": ("get", EVERYBODY),
    "pages:model": ("get", EVERYBODY),
    "pages:model_version": ("get", EVERYBODY),
}
# API: the method of the request and the scope that the key needs.
API_ENDPOINTS: dict[str, tuple[str, str]] = {
    "v1:predict": ("post", "predict"),
    "v1:predict_proba": ("post", "predict"),
    "v1:prediction": ("get", "read"),
    "v1:feedback": ("post", "feedback"),
    "v1:example": ("get", "read"),
    "v1:models": ("get", "read"),
    "v1:current_model": ("get", "read"),
    "v1:stats": ("get", "read"),
    "v1:moderate": ("post", "predict"),
    "v1:queue": ("get", "moderate"),
    "v1:claim_next": ("post", "moderate"),
    "v1:queue_item": ("get", "moderate"),
    "v1:claim": ("post", "moderate"),
    "v1:decide": ("post", "moderate"),
    "v1:release": ("post", "moderate"),
    "v1:undo": ("post", "moderate"),
    "v1:moderation_stats": ("get", "moderate"),
    "v1:appeals": ("post", "feedback"),
    "v1:webhook_keys": ("get", "webhooks"),
    "v1:webhook_key": ("delete", "webhooks"),
    "v1:webhook_test": ("post", "webhooks"),
    "v1:schema": ("get", "all"),
    "v1:docs": ("get", "all"),
    "v1alpha1/comments:analyze": ("post", "predict"),
    "v1alpha1/comments:suggestscore": ("post", "feedback"),
    "$discovery/rest": ("get", "all"),
    "discovery/v1/apis/commentanalyzer/v1alpha1/rest": ("get", "all"),
    "batch": ("post", "all"),
    "^v1alpha1/": ("get", "all"),
    "v1/moderations": ("post", "predict"),
    "connectors:receive": ("post", ""),  # the signature of the body is the authentication
    "^v1/": ("get", "all"),
}


class Endpoint(NamedTuple):
    """A URL of the site: its name (or its path if it has none), its path and its pattern."""

    name: str
    path: str
    pattern: URLPattern


def iterate_endpoints(resolver: URLResolver, before: str = "", namespace: str = "") -> Iterator[Endpoint]:
    """Yield every endpoint below a resolver."""
    for entry in resolver.url_patterns:
        path = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            inner = f"{namespace}{entry.namespace}:" if entry.namespace else namespace
            yield from iterate_endpoints(entry, path, inner)
        else:
            yield Endpoint(namespace + entry.name if entry.name else path, path, entry)


ENDPOINTS = {endpoint.name: endpoint for endpoint in iterate_endpoints(get_resolver())}


def is_model_page(endpoint: Endpoint) -> bool:
    """Return True for the five pages that the admin has for each model, and for redirects to them."""
    kinds = ("_changelist", "_add", "_history", "_delete", "_change", "<path:object_id>/")
    return (
        endpoint.path.startswith("admin/")
        and endpoint.name.endswith(kinds)
        and "password" not in endpoint.path
    )


def build_url(endpoint: Endpoint, site_data: dict[str, Any]) -> str:
    """Return a URL of the endpoint; `site_data` has the primary keys of rows that exist."""
    path = (
        endpoint.path.replace("^v1alpha1/", "v1alpha1/other")
        .replace("^v1/", "v1/other")
        .replace("(?P<url>.*)$", "nothing-here/")
    )
    path = re.sub(r"\^\(\?P<app_label>.*\)/\$", "moderation/", path)
    path = path.replace("<path:content_type_id>/<path:object_id>", "1/1").replace(
        "<id>", str(site_data["user"])
    )
    parts = path.split("/")
    for at, part in enumerate(parts):
        if "<" in part:
            kinds = [
                kind
                for kind in reversed(parts[:at])
                if kind.removesuffix("s") in site_data or kind in site_data
            ]
            value = site_data.get(kinds[0], site_data.get(kinds[0].removesuffix("s")))
            parts[at] = re.sub(r"<.*>", str(value), part)
    return "/" + "/".join(parts)
