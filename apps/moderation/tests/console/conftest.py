"""Fixtures of the console's tests."""

import pytest
from django.test import Client

from apps.accounts.models import User
from toxicmod.testing.console import staff_client


@pytest.fixture
def moderator_client(ann: User) -> Client:
    return staff_client(ann)


@pytest.fixture
def lead_client(lea: User) -> Client:
    return staff_client(lea)
