"""The panel Fairness: whether naming an identity group changes the score."""

from apps.monitoring.dashboard.charts import Kind, Panel, Plot, Series, interval_points
from apps.monitoring.dashboard.queries import Filters, load_promotions, load_rollups, shown_version
from apps.monitoring.dashboard.statistics import rate, ratios
from apps.monitoring.models import IDENTITY_GROUPS, Baseline

_MAX_GROUPS = 20
_MAX_SERIES = 5


def fairness_panel(filters: Filters) -> Panel:
    """Return the panel Fairness: the bias audit, and flag rates by identity group."""
    version = shown_version(filters)
    audited = Baseline.objects.filter(version=version).exclude(bias={}).first() if version else None
    if audited:
        answer, plots = _audit(audited)
    else:
        subject = version or "the champion"
        answer, plots = f"There is no bias audit of {subject} yet. The worker makes one every day.", []
    rollups = load_rollups(filters, "identity_groups")
    totals, by_step = rollups.total("identity_groups"), rollups.by_step("identity_groups")
    groups = [
        index
        for index in sorted(range(len(IDENTITY_GROUPS)), key=lambda index: -totals[index, 0])
        if totals[index, 0]
    ]
    plots += [
        Plot(
            "flag rate by group",
            "Flag rate of the sampled comments that name a group. A higher rate may also mean more hate."
            if groups
            else "No sampled comment in this window names a group.",
            [
                interval_points(
                    "any label",
                    [IDENTITY_GROUPS[index] for index in groups],
                    (rate(totals[index, 1], totals[index, 0]) for index in groups),
                )
            ],
            "flag rate",
            is_fraction=True,
        ),
        Plot(
            "over time",
            "The same over time, for the groups that are named most often.",
            [
                Series(
                    IDENTITY_GROUPS[index],
                    filters.times,
                    ratios(by_step[:, index, 1], by_step[:, index, 0]),
                )
                for index in groups[:_MAX_SERIES]
            ],
            "flag rate",
            is_fraction=True,
            events=load_promotions(filters),
        ),
    ]
    return Panel("Are identity groups treated alike?", answer, plots=plots)


def _audit(baseline: Baseline) -> tuple[str, list[Plot]]:
    bias = baseline.bias
    groups = sorted(bias, key=lambda group: bias[group]["bpsn"])[:_MAX_GROUPS]
    worst = groups[0]
    answer = (
        f"{baseline.version} does worst on sentences that name “{worst}”: a benign sentence about them gets "
        f"a lower score than a toxic one about others in {bias[worst]['bpsn']:.1%} of all pairs."
    )
    plot = Plot(
        "audit",
        "The twenty groups whose benign sentences are most often mistaken for toxic ones (low BPSN AUC).",
        [
            Series(name, groups, [bias[group][key] for group in groups], Kind.POINTS)
            for name, key in (("BPSN AUC", "bpsn"), ("BNSP AUC", "bnsp"), ("subgroup AUC", "subgroup"))
        ],
        "AUC of toxic",
    )
    return answer, [plot]
