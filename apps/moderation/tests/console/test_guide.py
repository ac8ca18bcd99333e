"""The moderators' guide."""

import re
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from apps.accounts.models import User
from apps.moderation.models import Policy
from toxicmod.testing.console import staff_client

GUIDE = "admin:moderation_help"


@pytest.fixture
def client_of(person: Callable[..., User], policy: Policy) -> Callable[[str], Client]:
    """Return a client that is signed in as a member of staff with a role."""
    return lambda role: staff_client(person(role, role))


@pytest.mark.parametrize("role", ["viewer", "moderator", "lead", "engineer", "administrator"])
def test_guide_is_linked_from_console_for_role(role: str, client_of: Callable[[str], Client]) -> None:
    client = client_of(role)
    navigation = client.get(reverse("admin:moderation_quality")).content.decode()
    assert f'href="{reverse(GUIDE)}"' in navigation
    response = client.get(reverse(GUIDE))
    assert response.status_code == 200
    is_lead = role in ("lead", "administrator")
    assert ("For leads" in response.content.decode()) == is_lead


@pytest.mark.parametrize("role", ["viewer", "moderator", "lead", "engineer", "administrator"])
def test_guide_links_only_pages_that_role_may_open(role: str, client_of: Callable[[str], Client]) -> None:
    client = client_of(role)
    html = client.get(reverse(GUIDE)).content.decode()
    links = set(re.findall(r'<a href="(/[^"#]*)', html.split('<article class="guide">')[1]))
    assert links
    for link in links:
        assert client.get(link).status_code == 200, link


def test_guide_lists_every_key_of_review_page(client_of: Callable[[str], Client]) -> None:
    client = client_of("moderator")
    review_page = client.get(reverse("admin:moderation_review")).content.decode()
    keys = re.findall(r"<kbd>[^<]*</kbd>", review_page.split('class="key-list"')[1].split("</dl>")[0])
    assert len(keys) > 10
    guide = client.get(reverse(GUIDE)).content.decode()
    assert all(key in guide for key in keys)


def test_guide_requires_view_queueitem_permission(client_of: Callable[[str], Client]) -> None:
    client = client_of("viewer")
    User.objects.get(username="viewer").groups.clear()
    assert client.get(reverse(GUIDE)).status_code == 403
