"""The guardrails of a canary: error rate, latency and flag rate, compared with the champion's."""

from math import exp, hypot, sqrt

from django.db.models import Avg, Count, F, Q, QuerySet, Value, Variance
from django.db.models.functions import Ln

from apps.core.statistics import wilson
from apps.predictions.models import Prediction
from apps.registry.gates import Gate, Rule, compare
from apps.registry.models import Canary, CanaryFailure

MIN_COMMENTS = 30  # of each model, before their latencies and flag rates are compared
Z = 3.0  # a canary is checked many times, so its intervals are three standard errors wide
MAX_ERROR_RATE = 0.001
MAX_LATENCY_RATIO = 1.5
MAX_FLAG_RATE_SHIFT, MAX_RELATIVE_FLAG_RATE_SHIFT = 0.02, 0.25


def measure_guardrails(canary: Canary) -> tuple[int, list[Gate]]:
    """Measure the guardrails of a canary since it began.

    A guardrail is violated if the whole interval is beyond its bound. The intervals are Newcombe's (1998) for
    the difference of flag rates, Wilson's (1927) for the error rate, and that of a ratio of geometric means
    for the latency.

    Returns:
        The number of comments that the canary has scored, and the guardrails.
    """
    since = Prediction.objects.filter(created_at__gte=canary.created_at)
    candidate, baseline = (
        _Traffic(since.filter(model_version=version)) for version in (canary.version, canary.champion)
    )
    failures = CanaryFailure.objects.filter(version=canary.version, created_at__gte=canary.created_at).count()
    guardrails = []
    if interval := wilson(failures, failures + candidate.count, z=Z):
        rate = failures / (failures + candidate.count)
        guardrails.append(
            _guardrail("error rate", Rule.INTERVAL_REACHES_AT_MOST, rate, MAX_ERROR_RATE, interval)
        )
    if min(candidate.count, baseline.count) >= MIN_COMMENTS:
        ratio = exp(candidate.latency - baseline.latency)
        error = Z * sqrt(candidate.variance / candidate.count + baseline.variance / baseline.count)
        guardrails.append(
            _guardrail(
                "latency, ratio to the champion's",
                Rule.INTERVAL_REACHES_AT_MOST,
                ratio,
                MAX_LATENCY_RATIO,
                (ratio * exp(-error), ratio * exp(error)),
            )
        )
        shift, interval = candidate.flag_rate_shift(baseline)
        bound = max(MAX_FLAG_RATE_SHIFT, MAX_RELATIVE_FLAG_RATE_SHIFT * baseline.flag_rate)
        guardrails.append(
            _guardrail(
                "flag rate, difference from the champion's",
                Rule.INTERVAL_REACHES_WITHIN,
                shift,
                bound,
                interval,
            )
        )
    return candidate.count, guardrails


def _guardrail(name: str, rule: Rule, figure: float, bound: float, interval: tuple[float, float]) -> Gate:
    passed = compare(rule, figure, bound, interval)
    return Gate(name=name, figure=figure, bound=bound, passed=passed, rule=rule, interval=interval)


class _Traffic:
    """Statistics of predictions: count, flagged comments, mean and variance of log(1 + latency in µs)."""

    def __init__(self, predictions: QuerySet[Prediction]) -> None:
        latency = Ln(F("latency_us") + Value(1.0))
        row = predictions.aggregate(
            count=Count("pk"),
            flagged=Count("pk", filter=~Q(label_mask=0)),
            latency=Avg(latency),
            variance=Variance(latency),
        )
        self.count: int = row["count"]
        self.flagged: int = row["flagged"]
        self.latency: float = row["latency"] or 0.0
        self.variance: float = row["variance"] or 0.0

    @property
    def flag_rate(self) -> float:
        return self.flagged / self.count

    def flag_rate_shift(self, baseline: "_Traffic") -> tuple[float, tuple[float, float]]:
        """Return how much higher this flag rate is than the baseline's, and the interval."""
        low, high = wilson(self.flagged, self.count, z=Z) or (0.0, 1.0)
        low_baseline, high_baseline = wilson(baseline.flagged, baseline.count, z=Z) or (0.0, 1.0)
        difference = self.flag_rate - baseline.flag_rate
        return difference, (
            difference - hypot(self.flag_rate - low, high_baseline - baseline.flag_rate),
            difference + hypot(high - self.flag_rate, baseline.flag_rate - low_baseline),
        )
