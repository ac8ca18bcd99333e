"""Input that databases cannot store or search, in every search, filter and form of staff pages and API."""

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from apps.accounts.actions import create_api_key
from apps.accounts.models import User
from apps.core.permissions import SYSTEM
from apps.moderation.models import Policy, QueueItem
from apps.monitoring.dashboard import PANELS
from toxicmod.testing.dashboard import CALLBACK, callback_body

pytestmark = [pytest.mark.django_db, pytest.mark.database]

INPUTS = {
    "nul": "\0",
    "nul within": "ab\0cd",
    "long": "x" * 100_000,
    "long number": "9" * 5_000,
    "big number": "9" * 30,
    "negative": "-1",
    "pattern": "%_\\'\"();--",
    "substitute": "\x1a\x7f\u202e",
    "digits of another script": "٣" * 12,
    "not Unicode": "\ufffe\uffff",
}


@pytest.fixture
def staff(client: Client) -> Client:
    """A browser of a superuser."""
    client.force_login(
        User.objects.create_superuser("root"), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def check_response(response: HttpResponse, where: Any) -> None:
    assert response.status_code < 500, (where, response.status_code)


def check_request(
    method: Callable[..., HttpResponse], url: str, *args: Any, where: Any = "", **options: Any
) -> None:
    """Send a request, roll its changes back, and check that the status is below 500."""
    with transaction.atomic():
        response = method(url, *args, **options)
        response.getvalue()
        transaction.set_rollback(True)
    check_response(response, (url[:200], where))


FAST = {"nul", "long number"}
KINDS = [kind if kind in FAST else pytest.param(kind, marks=pytest.mark.slow) for kind in INPUTS]


@pytest.mark.parametrize("kind", KINDS)
def test_admin_lists(staff: Client, item: QueueItem, kind: str) -> None:
    word = INPUTS[kind]
    for model in apps.get_models():
        if not admin.site.is_registered(model):
            continue
        changelist = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
        names = ["q", "o", "p"]
        if kind in FAST:
            names += ["e", "_facets", "_to_field", *(field.name for field in model._meta.concrete_fields)]
        for name in names:
            check_request(staff.get, f"{changelist}?{urlencode({name: word})}")
        for page in ("change", "history"):
            url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=["x"])
            quoted = urlencode({"": word})[1:200]
            check_request(staff.get, url.replace("/x/", f"/{quoted}/"))


@pytest.mark.parametrize("kind", KINDS)
def test_autocomplete(staff: Client, kind: str) -> None:
    for model in apps.get_models():
        for field in model._meta.get_fields():
            if field.many_to_one and admin.site.is_registered(field.related_model):
                query = {
                    "app_label": model._meta.app_label,
                    "model_name": model._meta.model_name,
                    "field_name": field.name,
                    "term": INPUTS[kind],
                }
                check_request(staff.get, f"{reverse('admin:autocomplete')}?{urlencode(query)}")


@pytest.mark.parametrize("kind", KINDS)
def test_console(staff: Client, item: QueueItem, policy: Policy, kind: str) -> None:
    word = INPUTS[kind]

    def url(name: str, *args: Any) -> str:
        return reverse(f"admin:moderation_{name}", args=args)

    for name, parameters in {
        "review": ["view"],
        "search": ["q"],
        "bulk": ["label", "score_from", "score_to", "queue", "community", "cluster"],
        "decisions_csv": ["days", "automatic"],
    }.items():
        for parameter in parameters:
            check_request(staff.get, f"{url(name)}?{urlencode({parameter: word})}")
    posts = {
        url("policies"): ["community"],
        url("policy", policy.pk): ["reason", "do", "audit_share", "rule-0-title"],
        url("decide", item.pk): ["note", "labels", "rule", "action", "version", "view"],
        url("skip", item.pk): ["note", "view"],
        url("presence", item.pk): ["tab", "is_first", "view"],
        url("bulk"): ["community", "note", "label", "rule"],
        url("profile"): ["exposure_limit"],
    }
    for to, fields in posts.items():
        for field in fields:
            data = {"action": "approve", "version": 1, "do": "activate", "label": "insult", "reason": "x"}
            check_request(staff.post, to, data | {field: word}, where=field)


@pytest.mark.parametrize("kind", [*KINDS, "surrogate"])
def test_dashboard(staff: Client, kind: str) -> None:
    word = INPUTS.get(kind, "\ud800")
    for panel in PANELS:
        for name in ("window", "community", "source", "version", "panel"):
            if kind != "surrogate":
                check_request(staff.get, f"/monitoring/{panel}.csv?{urlencode({name: word})}")
    body = json.loads(callback_body("?panel=volume&window=24h", ""))
    for changed in body["inputs"]:
        sent = body | {
            "inputs": [entry | {"value": word} if entry is changed else entry for entry in body["inputs"]],
            "changedPropIds": [f"{changed['id']}.{changed['property']}"],
        }
        check_request(staff.post, CALLBACK, json.dumps(sent), content_type="application/json", where=changed)


@pytest.mark.parametrize("kind", [*KINDS, "surrogate"])
def test_api(client: Client, item: QueueItem, person: Callable[..., User], kind: str) -> None:
    word = INPUTS.get(kind, "\ud800")
    secret = create_api_key(actor=SYSTEM, name="key", acts_as=person("api", "lead"))[1]
    headers = {"Authorization": f"Api-Key {secret}"}
    if kind != "surrogate":
        cursors = [
            base64.b64encode(f"{start}{word}".encode()).decode() for start in ("", "p=", "o=", "r=1&p=")
        ]
        for name in ("status", "queue", "label", "community", "mine", "cursor"):
            for value in [word, *(cursors if name == "cursor" else [])]:
                check_request(
                    client.get, f"/api/v1/moderation/queue?{urlencode({name: value})}", headers=headers
                )
    bodies: dict[str, list[dict[str, Any]]] = {
        "moderation/queue/claim": [{"community": word}, {"label": word}, {"queue": word}, {word: 1}],
        f"moderation/queue/{item.pk}/decide": [
            {"action": "approve", "version": 1} | field
            for field in ({"note": word}, {"reason": word}, {"labels": {word: True}}, {"version": word})
        ],
        "appeals": [{"token": word}, {"decision_id": word}, {"decision_id": 1, "text": word}],
        "feedback": [{"prediction_id": word}, {"prediction_id": str(item.submission_id), "remark": word}],
        "moderate": [{"text": "a", name: word} for name in ("community", "author", "external_id")],
    }
    for path, path_bodies in bodies.items():
        for body in path_bodies:
            sent = json.dumps(body)
            check_request(
                client.post, f"/api/v1/{path}", sent, content_type="application/json", headers=headers
            )


def test_error_message_names_the_nul_character(staff: Client) -> None:
    url = reverse("admin:moderation_search")
    response = staff.get(url, {"q": "a\0b"})
    assert response.status_code == 400
    assert "NUL character" in response.content.decode()
    response = staff.get(url, {"q": "a\0b"}, headers={"X-Requested-With": "fetch"})
    assert "NUL character" in response.json()["message"]


def test_sign_in_with_nul_character(client: Client, db: None) -> None:
    for field in ("username", "password", "code", "next"):
        form = {"username": "ann", "password": "x", field: "a\0b"}
        check_response(client.post(reverse("admin:login"), form), field)
