from typing import Any

import pytest

from apps.core.batches import map_batch, map_each, map_groups, map_isolated


def test_map_each_keeps_exceptions_in_place() -> None:
    earlier = KeyError()
    results = map_each(lambda number: 6 // number, [1, 0, earlier, 3])
    assert [results[0], type(results[1]), results[2], results[3]] == [6, ZeroDivisionError, earlier, 2]


def test_map_each_raises_exceptions_that_are_not_caught() -> None:
    with pytest.raises(ZeroDivisionError):
        map_each(lambda number: 6 // number, [0], catch=KeyError)


def test_map_batch_calls_function_once_with_selected_items() -> None:
    earlier = KeyError()
    calls: list[list[int]] = []

    def double(numbers: list[int]) -> list[int]:
        calls.append(numbers)
        return [2 * number for number in numbers]

    assert map_batch(double, [1, earlier, 3]) == [2, earlier, 6]
    assert map_batch(double, [1, 2, 3], where=lambda number: number > 1) == [1, 4, 6]
    assert map_batch(double, [earlier]) == [earlier]
    assert calls == [[1, 3], [2, 3]]


def test_map_batch_returns_exception_of_function_for_each_item() -> None:
    error = ValueError()

    def fail(numbers: list[int]) -> Any:
        raise error

    assert map_batch(fail, [1, 2]) == [error, error]


def test_map_groups_returns_results_in_order_of_items() -> None:
    results = map_groups(
        lambda number: number % 2, lambda key, group: [(key, len(group))] * len(group), [1, 2, 3]
    )
    assert results == [(1, 2), (0, 1), (1, 2)]


def test_map_isolated_calls_function_with_each_item_after_failure() -> None:
    calls: list[list[int]] = []

    def divide(numbers: list[int]) -> list[int]:
        calls.append(numbers)
        return [6 // number for number in numbers]

    assert map_isolated(divide, [1, 2]) == [6, 3]
    results = map_isolated(divide, [1, 0, 3])
    assert [results[0], type(results[1]), results[2]] == [6, ZeroDivisionError, 2]
    assert calls == [[1, 2], [1, 0, 3], [1], [0], [3]]


def test_map_isolated_stops_after_error_that_is_not_retried() -> None:
    calls: list[list[int]] = []

    def divide(numbers: list[int]) -> list[int]:
        calls.append(numbers)
        return [6 // number for number in numbers]

    results = map_isolated(divide, [1, 0, 3], retry=lambda error: False)
    assert [type(result) for result in results] == [ZeroDivisionError] * 3
    assert calls == [[1, 0, 3]]
