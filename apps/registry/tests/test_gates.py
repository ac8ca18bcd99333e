"""Descriptions of gates agree with their results."""

import pytest

from apps.registry.gates import Rule, compare, describe, failures_first, summarize


@pytest.mark.parametrize("rule", Rule)
@pytest.mark.parametrize("figure", [-0.1384, -0.01, -0.010004, 0.0, 0.0099, 0.01, 0.2, None])
@pytest.mark.parametrize("bound", [-0.01, 0.01])
def test_describe_agrees_with_compare(rule: Rule, figure: float | None, bound: float) -> None:
    passed = compare(rule, figure, bound, None)
    text = describe({"name": "loss", "figure": figure, "bound": bound, "rule": rule, "passed": passed})
    assert text.endswith("passed" if passed else "failed")
    if figure is None:
        assert "measured nothing: failed" in text
        return
    shown = float(text.rpartition("measured ")[2].partition(":")[0])
    if rule == Rule.AT_LEAST:
        assert (shown >= bound) == passed
        assert "must be at least" in text
    elif rule == Rule.AT_MOST:
        assert (shown <= bound) == passed
        assert "must be at most" in text
    else:
        assert "fails if the whole interval" in text


def test_describe_states_rule_and_measurement() -> None:
    gate = {"name": "PR-AUC (threat)", "figure": -0.1384, "bound": -0.01, "rule": "at_least", "passed": False}
    assert describe(gate) == "PR-AUC (threat) must be at least -0.0100; measured -0.1384: failed"
    assert describe(gate | {"figure": -0.01004}).endswith("at least -0.01000; measured -0.01004: failed")
    noted = describe(gate | {"note": "a loss", "interval": (-0.2, 0.1)})
    assert "-0.0100 (a loss); measured -0.1384 (interval -0.2000 to 0.1000)" in noted


def test_summary_counts_failures_and_lists_them_first() -> None:
    gates = [{"name": str(number), "passed": number % 3 > 0} for number in range(19)]
    assert summarize(gates) == "7 of 19 failed"
    assert [gate["passed"] for gate in failures_first(gates)] == [False] * 7 + [True] * 12
    assert summarize(failures_first(gates)[7:]) == "12 of 12 passed"
    assert summarize(failures_first(gates)[18:]) == "1 of 1 passed"
    assert summarize([]) == "Nothing was measured"
