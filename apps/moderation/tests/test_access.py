"""Access to communities: none by default, selected from existing ones, and part of cache keys."""

from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import Group
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.urls import reverse

from apps.accounts.models import CommunityAccess, User
from apps.accounts.permissions import access_key, communities_of
from apps.moderation import actions, saved_views
from apps.moderation.models import Policy
from apps.moderation.permissions import require, visible_to
from apps.moderation.roles import create_roles
from apps.moderation.selectors import communities_for
from toxicmod.testing.factories import create_queue_item, restrict_to_communities

pytestmark = pytest.mark.django_db


def test_new_user_sees_no_community(model: Any, policy: Policy, person: Callable[..., User]) -> None:
    create_queue_item("insult=0.7", community="news")
    create_queue_item("insult=0.7")
    new = person("new", all_communities=False)
    assert communities_of(new) == []
    assert visible_to(new).count() == 0
    assert actions.claim_next(user=new) is None
    assert {view.count for view in saved_views.view_counts(new)} == {0}
    with pytest.raises(PermissionDenied, match="do not have access to this community"):
        require(new, "moderation.view_queueitem", community="news")


def test_access_to_comments_without_community_is_explicit(model: Any, policy: Policy, ann: User) -> None:
    named, unnamed = create_queue_item("insult=0.7", community="news"), create_queue_item("insult=0.7 too")
    restrict_to_communities(ann, "news")
    assert list(visible_to(ann)) == [named]
    restrict_to_communities(ann, "")
    assert list(visible_to(ann)) == [unnamed]


def test_superuser_sees_all(model: Any, policy: Policy) -> None:
    create_queue_item("insult=0.7", community="news")
    root = User.objects.create_superuser("root")
    assert communities_of(root) is None
    assert visible_to(root).count() == 1


def test_access_key_differs_for_different_access(person: Callable[..., User]) -> None:
    users = {name: person(name, all_communities=False) for name in ("none", "star", "pair", "comma", "blank")}
    restrict_to_communities(users["star"], "*")
    restrict_to_communities(users["pair"], "a", "b")
    restrict_to_communities(users["comma"], "a,b")
    restrict_to_communities(users["blank"], "")
    users["all"] = person("all")
    assert len({access_key(user) for user in users.values()}) == len(users)


def test_review_explains_missing_access(policy: Policy, person: Callable[..., User]) -> None:
    new = person("new", all_communities=False)
    User.objects.update(is_staff=True)
    client = Client()
    client.force_login(new, backend="django.contrib.auth.backends.ModelBackend")
    html = client.get(reverse("admin:moderation_review")).content.decode()
    assert "You have access to no community yet." in html
    assert "Queue empty" not in html


def change_user(client: Client, user: User, *communities: str, **fields: Any) -> Any:
    """Post the admin's page of a user, adding communities."""
    data = {
        "username": user.username,
        "date_joined_0": "2026-01-01",
        "date_joined_1": "00:00:00",
        "community_access-TOTAL_FORMS": len(communities),
        "community_access-INITIAL_FORMS": 0,
        "is_staff": "on",
        "is_active": "on",
        **fields,
    }
    for number, name in enumerate(communities):
        data[f"community_access-{number}-community"] = name
        data[f"community_access-{number}-user"] = user.pk
    return client.post(reverse("admin:accounts_user_change", args=[user.pk]), data)


def test_user_admin_offers_existing_communities(
    model: Any, policy: Policy, person: Callable[..., User], lea: User, admin_client: Client
) -> None:
    create_queue_item("insult=0.7", community="news")
    create_queue_item("insult=0.7")
    actions.draft_policy(user=lea, community="music")
    new = person("new", all_communities=False)
    html = admin_client.get(reverse("admin:accounts_user_change", args=[new.pk])).content.decode()
    for option in ('value="=news"', 'value="=music"', 'value="=">(no community)', 'name="all_communities"'):
        assert option in html
    assert "There is no community “nwes”." in change_user(admin_client, new, "=nwes").content.decode()
    assert b"Please correct the duplicate" in change_user(admin_client, new, "=news", "=news").content
    assert not CommunityAccess.objects.exists()
    assert change_user(admin_client, new, "=news", "=").status_code == 302
    assert sorted(communities_of(User.objects.get(pk=new.pk)) or ()) == ["", "news"]
    assert change_user(admin_client, new, all_communities="on").status_code == 302
    assert communities_of(User.objects.get(pk=new.pk)) is None


def test_user_who_is_given_a_role_may_sign_in(person: Callable[..., User], admin_client: Client) -> None:
    """A role without staff status would be useless; no other change gives staff status."""
    create_roles()
    roles, other = Group.objects.in_bulk(field_name="name"), Group.objects.create(name="translators")
    new = person("new")

    def save(*groups: Group, **fields: str) -> bool:
        data = {"groups": [group.pk for group in groups], "is_staff": "", **fields}
        assert change_user(admin_client, new, **data).status_code == 302
        new.refresh_from_db()
        return new.is_staff

    assert not save()
    assert not save(other)
    assert save(other, roles["moderator"])
    assert LogEntry.objects.filter(object_id=new.pk, change_message__contains="staff status").exists()
    assert not save(roles["moderator"])  # unticked on purpose
    assert not save(roles["moderator"], other)
    assert save(roles["moderator"], roles["viewer"], is_staff="on")
    assert not save(roles["moderator"], roles["viewer"], roles["lead"])


def test_empty_community_has_a_name(
    model: Any, policy: Policy, person: Callable[..., User], client: Client, admin_client: Client
) -> None:
    mia = person("mia", "moderator")
    restrict_to_communities(mia, "gaming", "")
    User.objects.update(is_staff=True)
    client.force_login(mia, backend="django.contrib.auth.backends.ModelBackend")
    html = client.get(reverse("admin:moderation_review")).content.decode()
    assert "No items for you to decide" in html
    assert "You see these communities only: (no community), gaming." in html
    create_queue_item("insult=0.7", author_ref="ann")
    html = client.get(reverse("admin:moderation_review"), follow=True).content.decode()
    assert html.count("<bdi>(no community)</bdi>") == 2
    for page in ("moderation/queueitem", "moderation/author", "predictions/prediction"):
        assert ">(no community)</td>" in admin_client.get(f"/admin/{page}/").content.decode(), page
    assert str(CommunityAccess.objects.get(community="")) == "mia in (no community)"


def test_administrator_gives_no_more_access_than_they_have(
    model: Any, policy: Policy, person: Callable[..., User], client: Client
) -> None:
    for name in ("news", "secret"):
        create_queue_item("insult=0.7", community=name)
    administrator, new = person("adam", "administrator"), person("new", all_communities=False)
    root = User.objects.create_superuser("root")
    User.objects.update(is_staff=True)
    restrict_to_communities(administrator, "news")
    other = person("other", all_communities=False)
    restrict_to_communities(other, "secret")
    User.objects.update(is_staff=True)
    client.force_login(administrator, backend="django.contrib.auth.backends.ModelBackend")
    assert communities_for(administrator) == ["news"]
    assert b"secret" not in client.get(reverse("admin:accounts_user_change", args=[other.pk])).content
    assert change_user(client, new, "=secret").status_code == 200
    change_user(client, new, "=news", all_communities="on", is_superuser="on")
    new = User.objects.get(pk=new.pk)
    assert (communities_of(new), new.is_superuser) == (["news"], False)
    for user in (root, other, person("everywhere")):
        assert change_user(client, user).status_code == 403
        assert client.get(reverse("admin:auth_user_password_change", args=[user.pk])).status_code == 403
    form = client.get(reverse("admin:accounts_apikey_add")).context["adminform"].form
    assert set(form.fields["acts_as"].queryset) == {administrator, new}
