"""Access to every URL of the site, for every role and for keys of every scope."""

import re
from copy import deepcopy
from typing import Any

import pytest
from django.contrib import admin
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from pytest_django import Settings

from apps.accounts.models import Scope
from toxicmod.testing.endpoints import (
    API_ENDPOINTS,
    DASH,
    ENDPOINTS,
    EVERYBODY,
    PAGES,
    STAFF,
    build_url,
    is_model_page,
)

pytestmark = pytest.mark.django_db

# Models in the admin: the roles that may view, add and delete rows.
MODELS: dict[str, tuple[str, str, str]] = {
    "auth.group": ("a", "a", "a"),
    "accounts.user": ("a", "a", "a"),
    "axes.accessattempt": ("a", "", ""),
    "accounts.apikey": ("a", "a", ""),
    "registry.modelversion": ("lea", "", ""),
    "registry.promotion": ("lea", "", ""),
    "registry.canary": ("lea", "", ""),
    "registry.canaryend": ("lea", "", ""),
    "registry.canaryfailure": ("ea", "", ""),
    "predictions.prediction": (STAFF, "", ""),
    "predictions.feedback": (STAFF, "", ""),
    "moderation.queueitem": (STAFF, "", ""),
    "moderation.decision": (STAFF, "", ""),
    "moderation.automaticdecision": (STAFF, "", ""),
    "moderation.policy": (STAFF, "", ""),
    "moderation.author": (STAFF, "", ""),
    "moderation.strike": ("a", "", ""),
    "moderation.appeal": (STAFF, "", ""),
    "moderation.delivery": ("la", "", ""),
    "connectors.connection": ("a", "a", ""),
    "connectors.platformaction": ("la", "", ""),
    "webhooks.signingkey": ("a", "", ""),
    "webhooks.endpoint": ("a", "", ""),
    "moderation.bulkjob": ("la", "", ""),
    "mirror.mirrorstate": ("a", "", ""),
    "monitoring.alertrule": ("ea", "ea", ""),
    "monitoring.alert": ("lea", "", ""),
    "monitoring.notification": ("ea", "", ""),
    "monitoring.scheduledtask": ("ea", "", ""),
    "monitoring.incompletehour": ("ea", "", ""),
    "training.dataset": ("ea", "", ""),
    "training.trainingrun": ("lea", "", ""),
    "training.gatereport": ("lea", "", ""),
}


def is_allowed(response: HttpResponse) -> bool:
    """Return False for 401, 403 and a redirect to the login page."""
    if response.status_code == 302:
        return not response["Location"].startswith("/admin/login/")
    assert response.status_code < 500, response.content[:500]
    return response.status_code not in (401, 403)


def request_is_allowed(client: Client, method: str, url: str, **extra: Any) -> bool:
    """Send a request, roll its changes back, and return whether it was allowed."""
    cookies = deepcopy(client.cookies)
    with transaction.atomic():
        actual = is_allowed(getattr(client, method)(url, **extra))
        transaction.set_rollback(True)
    client.cookies = cookies
    return actual


@pytest.fixture
def clients(site_data: dict[str, Any]) -> dict[str, Client]:
    actual = {"-": Client()}
    for letter, user in site_data["people"].items():
        actual[letter] = Client()
        actual[letter].force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return actual


def allowed_roles(clients: dict[str, Client], method: str, url: str) -> str:
    # A decision is validated before its permission is checked.
    extra = {"data": {"action": "approve", "version": 1}} if url.endswith("/decide/") else {}
    return "".join(
        letter for letter in EVERYBODY if request_is_allowed(clients[letter], method, url, **extra)
    )


def test_pages_allow_the_roles_in_the_table(site_data: dict[str, Any], clients: dict[str, Client]) -> None:
    expected_endpoints = {
        name: endpoint
        for name, endpoint in ENDPOINTS.items()
        if not is_model_page(endpoint) and name not in API_ENDPOINTS and not name.startswith(DASH)
    }
    assert expected_endpoints.keys() == PAGES.keys(), "a new URL needs a row, and a row its URL"
    actual = {
        name: (PAGES[name][0], allowed_roles(clients, PAGES[name][0], build_url(endpoint, site_data)))
        for name, endpoint in expected_endpoints.items()
    }
    assert actual == PAGES


def test_dash_endpoints_reject_roles_without_dashboard_permission(
    site_data: dict[str, Any], clients: dict[str, Client]
) -> None:
    expected_endpoints = [endpoint for name, endpoint in ENDPOINTS.items() if name.startswith(DASH)]
    assert len(expected_endpoints) >= 7
    for endpoint in expected_endpoints:
        url = re.sub(r"<.*?>", "dashboard", "/" + endpoint.path)
        for method in ("get", "post"):
            assert not any(request_is_allowed(clients[letter], method, url) for letter in "-nvm"), url


def test_model_pages_allow_the_roles_in_the_table(clients: dict[str, Client]) -> None:
    actual = {}
    for kind in admin.site._registry:
        name = kind._meta.label_lower
        row = kind._default_manager.first()
        assert row is not None, f"`site_data` has no {name}"
        base = f"/admin/{name.replace('.', '/')}"
        seen = [
            allowed_roles(clients, "get", f"{base}/{page}")
            for page in ("", f"{row.pk}/change/", f"{row.pk}/history/")
        ]
        assert len(set(seen)) == 1, (name, seen)
        actual[name] = (
            seen[0],
            allowed_roles(clients, "get", f"{base}/add/"),
            allowed_roles(clients, "get", f"{base}/{row.pk}/delete/"),
        )
    assert actual == MODELS, "a new model needs a row"


def test_api_endpoints_allow_the_scopes_in_the_table(site_data: dict[str, Any], settings: Settings) -> None:
    settings.ANONYMOUS_API = False
    actual = {}
    for name, (method, _) in API_ENDPOINTS.items():
        url = build_url(ENDPOINTS[name], site_data)
        accepted_scopes = [
            scope
            for scope, secret in [("", ""), *site_data["secrets"].items()]
            if request_is_allowed(
                Client(),
                method,
                url,
                headers={"Authorization": f"Api-Key {secret}"} if secret else {},
                **({"data": "{}", "content_type": "application/json"} if method == "post" else {}),
            )
        ]
        actual[name] = (
            method,
            " ".join(accepted_scopes) if accepted_scopes != ["", *Scope.values] else "all",
        )
    assert actual == API_ENDPOINTS
