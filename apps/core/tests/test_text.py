"""Plurals, numbers, cells of spreadsheets, and text that can be stored."""

import pytest

from apps.core.text import escape_formula, format_duration, format_number, is_storable, pluralize


def test_pluralize() -> None:
    assert [pluralize(count, "row") for count in (0, 1, 1_234)] == ["0 rows", "1 row", "1,234 rows"]
    assert pluralize(2, "item is", "items are") == "2 items are"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "  =1", "＝1"])
def test_escape_formula_of_formula(cell: str) -> None:
    assert escape_formula(cell) == f"'{cell}"


@pytest.mark.parametrize(("cell", "text"), [(None, ""), (3, "3"), ("a=1", "a=1"), ("", "")])
def test_escape_formula_of_other_cell(cell: object, text: str) -> None:
    assert escape_formula(cell) == text


@pytest.mark.parametrize(("text", "storable"), [("é\n", True), ("a\0", False), ("\ud83d", False)])
def test_is_storable(text: str, storable: bool) -> None:
    assert is_storable(text) is storable


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.6, "60 s"), (90, "2 min"), (7_200, "2 h"), (200_000, "2 d"), (None, "–")],
)
def test_format_duration(seconds: float | None, text: str) -> None:
    assert format_duration(seconds) == text


def test_format_duration_with_digits() -> None:
    assert format_duration(200_000, digits=1) == "2.3 d"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9966365110975774, "0.9966"),
        (0.0, "0"),
        (0.00000123, "under 0.0001"),
        (-331.1234567, "-331.1"),
        (12345.678, "12346"),
        (None, "–"),
    ],
)
def test_format_number(value: float | None, text: str) -> None:
    assert format_number(value) == text
