"""Paths with a missing or an extra trailing slash."""

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from apps.accounts.models import User
from apps.predictions.models import Prediction
from toxicmod.middleware import toggle_slash

pytestmark = pytest.mark.django_db


def paths(resolver: URLResolver, before: str = "/") -> Iterator[tuple[str, URLPattern]]:
    for entry in resolver.url_patterns:
        path = before + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from paths(entry, path)
        elif not set("<^(") & set(path):
            yield path, entry


PATHS = dict(paths(get_resolver()))
# The APIs that are compatible with others have exactly their paths.
COMPATIBLE = [
    path
    for path, entry in PATHS.items()
    if {"perspective", "openai"} & {*entry.callback.__module__.split(".")}
]
# The admin reads a file's name with a trailing slash as the key of a row.
OTHERS = [path for path in PATHS if path not in COMPATIBLE and path != "/" and not path.endswith(".csv")]
ANALYZE = {"comment": {"text": "x"}, "requestedAttributes": {"TOXICITY": {}}}


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(
        User.objects.create_superuser("root"), backend="django.contrib.auth.backends.ModelBackend"
    )
    return client


def test_list_of_paths_is_complete() -> None:
    assert {"/model", "/api/v1/predict", "/admin/", "/health", "/monitoring/"} <= set(OTHERS)
    assert {"/v1alpha1/comments:analyze", "/batch", "/v1/moderations"} <= set(COMPATIBLE)


def test_get_redirects_permanently(root: Client) -> None:
    wrong = {}
    for path in OTHERS:
        for method in (root.get, root.head):
            response = method(f"{toggle_slash(path)}?a=1")
            if (response.status_code, response.headers.get("Location")) != (301, f"{path}?a=1"):
                wrong[path] = response.status_code
    assert not wrong


def test_paths_with_parameters_redirect(root: Client, champion: Any) -> None:
    number = champion.number
    assert root.get(f"/model/v{number}/")["Location"] == f"/model/v{number}"
    url = f"/admin/registry/modelversion/{champion.pk}/change"
    assert root.get(url)["Location"] == f"{url}/"


def test_anonymous_admin_paths_redirect_to_login(client: Client) -> None:
    for path in ("/admin/predictions/prediction", "/admin/nothing-here"):
        assert client.get(path)["Location"].startswith("/admin/login/?next=")


@pytest.mark.parametrize("path", ["/api/v1/predict/", "/api/v1/predict_proba/"])
def test_api_post_with_trailing_slash_is_stored(client: Client, auth: dict[str, Any], path: str) -> None:
    response = client.post(path, {"text": "you idiot"}, content_type="application/json", **auth)
    assert response.status_code == 200
    assert Prediction.objects.filter(pk=response.json()["id"], text="you idiot").exists()


def test_page_post_with_trailing_slash_is_redirected(client: Client) -> None:
    response = client.post("/live/", {"text": "you idiot"})
    assert (response.status_code, response["Location"]) == (308, "/live")


@pytest.mark.parametrize("path", COMPATIBLE)
def test_paths_of_compatible_apis_are_exact(client: Client, path: str) -> None:
    for response in (
        client.get(f"{path}/"),
        client.post(f"{path}/", ANALYZE, content_type="application/json"),
    ):
        assert response.status_code == 404
    assert not Prediction.objects.exists()


@pytest.mark.parametrize("path", ["/nothing/", "/api/v1/nothing/", "/model//x/"])
def test_other_paths_are_not_found(client: Client, path: str) -> None:
    assert client.get(path).status_code == 404
    assert client.post(path).status_code == 404
