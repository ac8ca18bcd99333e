from datetime import timedelta

import pytest
from django.utils import timezone

from apps.monitoring import actions
from apps.monitoring.rollups.hours import HOUR, start_of_hour
from apps.monitoring.selectors import RecentTraffic, recent_traffic
from apps.predictions.actions import give_feedback
from apps.registry.models import ModelVersion
from toxicmod.testing.factories import create_prediction

pytestmark = [pytest.mark.django_db, pytest.mark.database, pytest.mark.usefixtures("start_of_hour")]


def test_recent_traffic_sums_the_current_hour_and_the_one_before(champion: ModelVersion) -> None:
    now = timezone.now()
    since = start_of_hour(now) - HOUR
    assert recent_traffic() == RecentTraffic(since, 0, 0, 0, None)
    create_prediction(champion, since - timedelta(seconds=1), latency_us=900)
    create_prediction(champion, since, community="a", latency_us=100, label_mask=1)
    prediction = create_prediction(champion, now, community="b", latency_us=203)
    give_feedback(prediction=prediction, is_right=True)
    actions.roll_up()
    assert recent_traffic() == RecentTraffic(since, 2, 1, 1, 152)
