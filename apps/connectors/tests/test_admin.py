"""Connections and actions in the admin."""

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from apps.accounts.models import User
from apps.connectors import actions, selectors
from apps.connectors.models import Connection, PlatformAction
from apps.connectors.tests.payloads import DISCOURSE, REQUESTS, SECRET
from toxicmod.testing.factories import restrict_to_communities

pytestmark = pytest.mark.django_db
Connect = Callable[..., Connection]
LIST, ADD = "/admin/connectors/connection/", "/admin/connectors/connection/add/"
FORM = {
    "platform": "discourse",
    "community": "alpha",
    "base_url": "https://forum.example.org",
    "api_user": "",
    "is_active": "on",
    "secret": SECRET,
    "token": "token",
}


@pytest.fixture
def administrator(person: Callable[..., User], client: Client) -> User:
    user = person("adam", "administrator")
    User.objects.filter(pk=user.pk).update(is_staff=True)
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return user


def errors(response: Any) -> dict[str, list[str]]:
    assert response.status_code == 200, response
    return response.context["adminform"].form.errors


def test_add_stores_secret_and_token(client: Client, administrator: User) -> None:
    assert client.post(ADD, FORM).status_code == 302
    connection = Connection.objects.get()
    assert (connection.secret, connection.token, connection.created_by) == (SECRET, "token", administrator)
    page = client.get(reverse("admin:connectors_connection_change", args=[connection.pk])).content.decode()
    assert f"/connectors/{connection.pk}" in page
    assert SECRET not in page
    assert "encrypted" not in page.replace("stored encrypted", "")


def test_change_keeps_secret_and_asks_for_token_of_other_address(client: Client, administrator: User) -> None:
    client.post(ADD, FORM)
    connection = Connection.objects.get()
    url = reverse("admin:connectors_connection_change", args=[connection.pk])
    changed = FORM | {"secret": "", "token": "", "api_user": "mod"}
    assert client.post(url, changed).status_code == 302
    connection.refresh_from_db()
    assert (connection.secret, connection.token, connection.api_user) == (SECRET, "token", "mod")
    assert "token" in errors(client.post(url, changed | {"base_url": "https://other.example.org"}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"base_url": ""}, "base_url"),
        ({"base_url": "http://127.0.0.1"}, "base_url"),
        ({"base_url": "http://localhost"}, "base_url"),
        ({"community": "beta"}, "community"),
    ],
)
def test_add_rejects(client: Client, administrator: User, change: dict[str, str], field: str) -> None:
    restrict_to_communities(administrator, "alpha")
    assert field in errors(client.post(ADD, FORM | change))
    assert not Connection.objects.exists()


def test_lists_show_communities_of_user(
    client: Client,
    administrator: User,
    connect: Connect,
    person: Callable[..., User],
    model: object,
    policy: object,
) -> None:
    visible, hidden = (
        connect("discourse", community=name, token="token", base_url=f"https://{name}.example.org")
        for name in ("alpha", "beta")
    )
    for connection in (visible, hidden):
        headers = REQUESTS["discourse"][1]
        data = {"post": DISCOURSE["post"] | {"id": 1 if connection == visible else 2}}
        actions.receive(connection=connection, headers=headers, data=data)
    restrict_to_communities(administrator, "alpha")
    assert list(selectors.visible_connections(administrator)) == [visible]
    (action,) = selectors.visible_actions(administrator)
    assert action.comment.connection == visible
    assert "beta.example.org" not in client.get(LIST).content.decode()
    other = PlatformAction.objects.exclude(pk=action.pk).get()
    for pk in (hidden.pk, other.pk):
        name = "connection" if pk == hidden.pk else "platformaction"
        url = reverse(f"admin:connectors_{name}_change", args=[pk])
        assert client.get(url).status_code in (302, 404)
