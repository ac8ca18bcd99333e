"""Gates and guardrails, and their descriptions for the admin, the command line and error messages."""

from collections.abc import Iterable
from enum import StrEnum
from typing import NotRequired, TypedDict


class Rule(StrEnum):
    """How a figure is compared with its bound."""

    AT_LEAST = "at_least"
    AT_MOST = "at_most"
    # For canaries, which are checked repeatedly: a gate fails only if the whole interval is beyond the bound.
    INTERVAL_REACHES_AT_MOST = "interval_reaches_at_most"
    INTERVAL_REACHES_WITHIN = "interval_reaches_within"


class Gate(TypedDict):
    """A measured figure, its bound and whether it passes, as promotions store it as JSON."""

    name: str
    figure: float | None
    bound: float | None
    passed: bool
    rule: NotRequired[str]  # one of `Rule`
    interval: NotRequired[tuple[float, float]]
    note: NotRequired[str]  # explains the bound


_WORDS = {
    Rule.AT_LEAST: "must be at least {}",
    Rule.AT_MOST: "must be at most {}",
    Rule.INTERVAL_REACHES_AT_MOST: "fails if the whole interval is above {}",
    Rule.INTERVAL_REACHES_WITHIN: "fails if the whole interval is more than {} away from 0",
}


def compare(rule: Rule, figure: float | None, bound: float, interval: tuple[float, float] | None) -> bool:
    """Return whether a figure satisfies a rule; a figure that could not be measured does not."""
    if figure is None:
        return False
    low, high = interval or (figure, figure)
    match rule:
        case Rule.AT_LEAST:
            return figure >= bound
        case Rule.AT_MOST:
            return figure <= bound
        case Rule.INTERVAL_REACHES_AT_MOST:
            return low <= bound
        case Rule.INTERVAL_REACHES_WITHIN:
            return low <= bound and high >= -bound


def failures_first(gates: Iterable[Gate]) -> list[Gate]:
    """Return the gates, the failed ones first."""
    return sorted(gates, key=lambda gate: bool(gate["passed"]))


def summarize(gates: Iterable[Gate]) -> str:
    """Return how many failed: `6 of 19 failed`, `19 of 19 passed`."""
    results = [bool(gate["passed"]) for gate in gates]
    failed = results.count(False)
    if not results:
        return "Nothing was measured"
    return f"{failed or len(results)} of {len(results)} {'failed' if failed else 'passed'}"


def state_rule(gate: Gate) -> str:
    """Return the rule of the gate: `must be at least -0.0100`."""
    if gate["bound"] is None:
        return "–"
    words = _WORDS[Rule(gate["rule"])] if gate.get("rule") else "bound {}"
    note = f" ({gate['note']})" if gate.get("note") else ""
    return words.format(_number(gate["bound"], gate)) + note


def state_measurement(gate: Gate) -> str:
    """Return the measured figure: `-0.1384 (interval -0.2000 to -0.0800)`."""
    if gate["figure"] is None:
        return "–" if gate["bound"] is None else "nothing"
    interval = " (interval {:.4f} to {:.4f})".format(*gate["interval"]) if gate.get("interval") else ""
    return _number(gate["figure"], gate) + interval


def state_verdict(gate: Gate) -> str:
    """Return `passed` or `failed`."""
    return "passed" if gate["passed"] else "failed"


def describe(gate: Gate) -> str:
    """Return a gate as one line: `PR-AUC (threat) must be at least -0.0100; measured -0.1384: failed`."""
    if gate["bound"] is None and gate["figure"] is None:
        return f"{gate['name']}: {state_verdict(gate)}"
    return f"{gate['name']} {state_rule(gate)}; measured {state_measurement(gate)}: {state_verdict(gate)}"


def _number(value: float, gate: Gate) -> str:
    """Return a figure or bound with four decimals, or as many as show on which side of the bound it lies."""
    figure, bound = gate["figure"], gate["bound"]
    digits = 4
    if figure is not None and bound is not None and figure != bound:
        while digits < 12 and f"{figure:.{digits}f}" == f"{bound:.{digits}f}":
            digits += 1
    return f"{value:.{digits}f}"
