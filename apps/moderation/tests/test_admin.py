"""Tests of `admin`."""

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from apps.accounts.models import User
from apps.moderation.models import QueueItem
from toxicmod.testing.console import staff_client
from toxicmod.testing.factories import create_queue_item


@pytest.mark.parametrize(
    "model_name", ["queueitem", "decision", "policy", "author", "appeal", "delivery", "bulkjob", "strike"]
)
def test_changelist_is_read_only(item: QueueItem, admin_user: User, model_name: str) -> None:
    for n in range(5):
        create_queue_item(f"insult=0.7 {n}")
    client = staff_client(admin_user)
    changelist = reverse(f"admin:moderation_{model_name}_changelist")
    client.get(changelist)
    with CaptureQueriesContext(connection) as queries:
        html = client.get(changelist).content.decode()
    assert len(queries) <= 10
    assert "addlink" not in html.split('id="changelist"')[-1]
    assert client.get(reverse(f"admin:moderation_{model_name}_add")).status_code == 403


@pytest.mark.parametrize(("rows_per_page", "is_shown"), [(2, True), (3, False)])
def test_list_that_ends_early_says_so(
    item: QueueItem, admin_user: User, monkeypatch: pytest.MonkeyPatch, rows_per_page: int, is_shown: bool
) -> None:
    monkeypatch.setattr("apps.core.admin.MAX_PAGES", 1)
    monkeypatch.setattr("apps.moderation.admin.LargeTableAdmin.list_per_page", rows_per_page)
    create_queue_item("insult=0.7 another one")
    html = staff_client(admin_user).get(reverse("admin:moderation_queueitem_changelist")).text
    assert ("The list ends after" in html) == is_shown
