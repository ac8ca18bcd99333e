import numpy as np
import pytest

from apps.monitoring.models import IDENTITY_GROUPS, HourlyRollup


def test_array_field_pads_and_truncates_first_axis() -> None:
    field = HourlyRollup._meta.get_field("identity_groups")
    older = np.arange(4, dtype="<u4").tobytes()
    array = field.from_db_value(older, None, None)
    assert array.shape == (len(IDENTITY_GROUPS), 2)
    assert array[:2].tolist() == [[0, 1], [2, 3]]
    assert array[2:].sum() == 0
    newer = np.ones(2 * len(IDENTITY_GROUPS) + 2, dtype="<u4").tobytes()
    assert field.from_db_value(newer, None, None).shape == (len(IDENTITY_GROUPS), 2)
    with pytest.raises(ValueError, match="reshape"):
        HourlyRollup._meta.get_field("latency").from_db_value(older, None, None)
