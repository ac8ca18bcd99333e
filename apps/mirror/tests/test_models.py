"""The lease of the sender has one owner at a time, and another one after it has expired."""

from datetime import timedelta

import pytest
from django.utils import timezone

from apps.core.leases import Lease
from apps.mirror.models import MirrorState

pytestmark = [pytest.mark.django_db, pytest.mark.database]
DURATION = timedelta(minutes=1)


def acquire() -> Lease | None:
    return Lease.acquire(MirrorState.objects.filter(pk=1), DURATION)


def test_acquire_without_row() -> None:
    assert acquire() is None


def test_acquire_while_held_and_after_release() -> None:
    MirrorState.objects.create()
    first = acquire()
    assert first
    assert acquire() is None
    assert first.release(error="stopped")
    assert MirrorState.objects.get().error == "stopped"
    assert acquire()


def test_expired_lease_is_taken_over() -> None:
    MirrorState.objects.create()
    first = acquire()
    assert first
    MirrorState.objects.update(lease_expires_at=timezone.now())
    second = acquire()
    assert second
    assert not first.update(error="late")
    assert not first.release(error="late")
    assert second.update(failures=3)
    state = MirrorState.objects.get()
    assert (state.error, state.failures, state.lease_owner) == ("", 3, second.owner)
