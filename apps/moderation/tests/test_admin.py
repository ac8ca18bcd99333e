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
