"""The dashboard as a Dash application."""

from typing import Any
from urllib.parse import parse_qs, urlencode

from dash import Input, Output, dcc, html
from django.core.cache import cache
from django.http import Http404
from django.urls import reverse
from django_plotly_dash import DjangoDash

from apps.accounts.models import User
from apps.accounts.permissions import communities_of
from apps.core.text import is_storable, name_community
from apps.monitoring.dashboard.charts import Panel, Plot, plotly_figure
from apps.monitoring.dashboard.panels import DEFAULT_PANEL, PANELS, build_panel
from apps.monitoring.dashboard.queries import DEFAULT_WINDOW, WINDOWS, Filters
from apps.monitoring.freshness import Freshness
from apps.monitoring.models import HourlyRollup
from apps.monitoring.permissions import require_dashboard, visible_community
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion

NAME = "dashboard"
MAX_COMMUNITIES = 500
MAX_VERSIONS = 100
_CACHE_SECONDS = 300
_WINDOW_NAMES = {"24h": "A day", "7d": "A week", "30d": "30 days", "90d": "90 days"}
_STATE = ("panel", "window", "community", "source", "version")


class Dashboard(DjangoDash):
    """Creates its Dash instance once; django-plotly-dash creates one for every request."""

    _instance: Any = None

    def as_dash_instance(self, cache_id: Any = None) -> Any:
        if self._instance is None:
            self._instance = super().as_dash_instance(cache_id)
        return self._instance


def find_app(name: str) -> DjangoDash:
    """Return the application with that name. django-plotly-dash calls this (`stateless_loader`).

    Raises:
        Http404: the name is unknown. django-plotly-dash would respond with a server error.
    """
    if name != NAME:
        raise Http404(f"There is no Dash application called {name}.")
    return app


def parse_state(query: str) -> dict[str, str | None]:
    """Return the state that a query string selects, with defaults for missing and unknown values."""
    parameters = parse_qs(query.lstrip("?"), keep_blank_values=True)
    selected = {name: values[0] for name, values in parameters.items()}
    version = selected.get("version", "")
    return {
        "panel": selected["panel"] if selected.get("panel") in PANELS else DEFAULT_PANEL,
        "window": selected["window"] if selected.get("window") in WINDOWS else DEFAULT_WINDOW,
        "community": selected.get("community"),
        "source": selected["source"] if selected.get("source") in Prediction.Source.values else None,
        "version": version if version.isdecimal() and len(version) < 10 else None,
    }


def format_state(state: dict[str, str | None]) -> str:
    """Return the query string that `parse_state` reads, without values that the database can't store."""
    return "?" + urlencode(
        {name: value for name, value in state.items() if value is not None and is_storable(value)}
    )


def filters_for(state: dict[str, str | None], user: User) -> Filters:
    """Return the filters of a state, restricted to what the user may see."""
    return Filters(
        window=state["window"] or DEFAULT_WINDOW,
        community=visible_community(user, state["community"]),
        source=state["source"] or "",
        version=int(state["version"]) if state["version"] else None,
    )


def _community_options(user: User) -> list[dict[str, str]]:
    """Return the communities that the user may see."""
    names = communities_of(user)
    if names is None:
        names = cache.get_or_set("monitoring:communities", _all_communities, _CACHE_SECONDS)
    return [{"label": name_community(name), "value": f"={name}"} for name in names or ()]


def _all_communities() -> list[str]:
    rows = HourlyRollup.objects.filter(overall=False).order_by("community")
    return list(rows.values_list("community", flat=True).distinct()[:MAX_COMMUNITIES])


def _version_options() -> list[dict[str, str]]:
    numbers = ModelVersion.objects.values_list("number", flat=True)[:MAX_VERSIONS]
    return [{"label": f"v{number}", "value": str(number)} for number in numbers]


def _filter(name: str, title: str, component: Any) -> Any:
    label: Any = {"aria-labelledby": f"{name}-title"}
    title_element = html.Span(title, id=f"{name}-title", className="title")
    return html.Div([title_element, component], className=f"filter {name}", role="group", **label)


def _radio(name: str, options: dict[str, str], value: str) -> Any:
    return dcc.RadioItems(
        id=name,
        options=[{"label": text, "value": key} for key, text in options.items()],
        value=value,
        inline=True,
    )


def _dropdown(name: str, options: list[dict[str, str]]) -> Any:
    return dcc.Dropdown(id=name, options=options, placeholder="all", searchable=len(options) > 8)


def _layout() -> Any:
    panels = {key: title for key, (title, _) in PANELS.items()}
    sources = [{"label": text, "value": key} for key, text in Prediction.Source.choices]
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="tick", interval=60_000),
            html.Div(
                [
                    _filter("panel", "Panel", _radio("panel", panels, DEFAULT_PANEL)),
                    _filter("window", "Time", _radio("window", _WINDOW_NAMES, DEFAULT_WINDOW)),
                    _filter("community", "Community", _dropdown("community", [])),
                    _filter("source", "Source", _dropdown("source", sources)),
                    _filter("version", "Version", _dropdown("version", [])),
                ],
                className="filters",
            ),
            html.Div(id="content", className="panel-content"),
        ]
    )


def _render_plot(panel: str, plot: Plot) -> Any:
    element_id = f"{panel}-{plot.key}".replace(" ", "-").replace(",", "")
    config: Any = {"displayModeBar": False, "responsive": True}
    key: Any = {"data-plot": plot.key}
    is_empty = not any(value is not None for series in plot.series for value in series.y)
    body = (
        html.P("There are no data for this plot yet.", className="empty")
        if is_empty
        else dcc.Graph(
            id=element_id, figure=plotly_figure(plot), config=config, style={"height": f"{plot.height}px"}
        )
    )
    return html.Figure([html.Figcaption(plot.caption), body], **key)


def _render_freshness(freshness: Freshness) -> list[Any]:
    late: list[Any] = [html.Strong("Late: ")] if freshness.is_late else []
    if as_of := freshness.as_of:
        text: list[Any] = [
            "Data as of ",
            html.Time(f"{as_of:%Y-%m-%d %H:%M} UTC", dateTime=as_of.isoformat()),
        ]
    else:
        text = ["No traffic has been counted yet."]
    problems = [html.Li(problem) for problem in freshness.problems]
    return [
        html.P([*late, *text], className=f"as-of {freshness.status}"),
        *([html.Ul(problems, className="problems")] if problems else []),
    ]


def render_panel(name: str, panel: Panel, query: str) -> list[Any]:
    """Return a panel as Dash components."""
    stats = [
        html.Div(
            [html.Dt(stat.name), html.Dd(stat.value), html.Dd(stat.note, className="note")],
            className="stat alerting" if stat.is_alerting else "stat",
        )
        for stat in panel.stats
    ]
    download_url = reverse("monitoring:csv", args=[name]) + query
    return [
        html.Div(
            [html.H2(panel.question), html.A("Download as CSV", href=download_url, className="csv")],
            className="head",
        ),
        *(_render_freshness(panel.freshness) if panel.freshness else []),
        html.P(panel.answer, className="answer"),
        *([html.Dl(stats, className="stats")] if stats else []),
        html.Div([_render_plot(name, plot) for plot in panel.plots], className="plots"),
    ]


app = Dashboard(NAME, serve_locally=True)
app.layout = _layout


@app.callback(
    [
        Output("content", "children"),
        Output("url", "search"),
        *(Output(name, "value") for name in _STATE),
        Output("community", "options"),
        Output("version", "options"),
    ],
    [Input("url", "search"), *(Input(name, "value") for name in _STATE), Input("tick", "n_intervals")],
)
def update(
    search: str | None,
    panel: str | None,
    window: str | None,
    community: str | None,
    source: str | None,
    version: str | None,
    tick: int | None,
    user: Any = None,
    callback_context: Any = None,
) -> list[Any]:
    """Show the selected panel. The URL follows the filters, and the filters follow a changed URL."""
    viewer = require_dashboard(user)
    changed = {trigger["prop_id"] for trigger in callback_context.triggered}
    if changed - {"url.search", "."}:
        search = format_state(
            {
                "panel": panel,
                "window": window,
                "community": community[1:] if community else None,
                "source": source,
                "version": version,
            }
        )
    state = parse_state(search or "")
    filters = filters_for(state, viewer)
    state["community"] = filters.community
    query = format_state(state)
    name = state["panel"] or DEFAULT_PANEL
    return [
        render_panel(name, build_panel(name, filters), query),
        query,
        name,
        state["window"],
        None if filters.community is None else f"={filters.community}",
        state["source"],
        state["version"],
        _community_options(viewer),
        _version_options(),
    ]
