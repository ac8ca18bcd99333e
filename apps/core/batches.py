"""Process a list of requests and isolate the failure of each. The APIs and `predictions` call this module.

In the lists that these functions take and return, an exception stands for the result of a failed request.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Key = TypeVar("Key", bound=Hashable)


def map_each(
    function: Callable[[Item], Result],
    items: Iterable[Item | Exception],
    catch: type[Exception] | tuple[type[Exception], ...] = Exception,
) -> list[Result | Exception]:
    """Call a function with each item; exceptions among the items are results already.

    Args:
        catch: the exceptions that become the item's result; all others are raised.
    """
    results: list[Result | Exception] = []
    for item in items:
        if isinstance(item, Exception):
            results.append(item)
            continue
        try:
            results.append(function(item))
        except catch as error:
            results.append(error)
    return results


def map_batch(
    function: Callable[[list[Any]], Sequence[Result | Exception]],
    items: Sequence[Any],
    where: Callable[[Any], bool] = lambda item: not isinstance(item, Exception),
) -> list[Any]:
    """Call a function once with the list of the selected items; all other items are results already.

    Args:
        function: returns a result or an exception for each item of its list. If it raises an exception,
            that is the result of each selected item. It is not called with an empty list.
        where: selects items; by default those that are no exceptions.
    """
    indices = [index for index, item in enumerate(items) if where(item)]
    results = list(items)
    if indices:
        selected = [items[index] for index in indices]
        try:
            outputs = function(selected)
        except Exception as error:
            outputs = [error] * len(selected)
        for index, output in zip(indices, outputs, strict=True):
            results[index] = output
    return results


def map_groups(
    key: Callable[[Item], Key], function: Callable[[Key, list[Item]], Sequence[Result]], items: Sequence[Item]
) -> list[Result]:
    """Call a function once with each group of items that have the same key; return the results in order."""
    indices_by_key: dict[Key, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        indices_by_key[key(item)].append(index)
    results: dict[int, Result] = {}
    for group, indices in indices_by_key.items():
        results |= zip(indices, function(group, [items[index] for index in indices]), strict=True)
    return [results[index] for index in range(len(items))]


def map_isolated(
    function: Callable[[list[Item]], Sequence[Result]],
    items: Sequence[Item],
    retry: Callable[[Exception], bool] = lambda error: True,
) -> list[Result | Exception]:
    """Call a function with all items, and if it raises an exception, with each item alone.

    Args:
        function: returns a result for each item of its list.
        retry: returns whether another call may succeed after an exception. If not, the exception is the
            result of all remaining items.
    """
    error: Exception | None
    try:
        return list(function(list(items)))
    except Exception as first:
        error = first
    results: list[Result | Exception] = []
    for item in items:
        if error is None or retry(error):
            try:
                results += function([item])
                error = None
            except Exception as latest:
                error = latest
        if error is not None:
            results.append(error)
    return results
