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
from apps.core.text import is_storable
from apps.monitoring import access
from apps.monitoring.figures import Panel, Plot, figure, height
from apps.monitoring.freshness import Freshness
from apps.monitoring.models import HourlyRollup
from apps.monitoring.panels import PANELS, WINDOWS, Filters, build
from apps.predictions.models import Prediction
from apps.registry.models import ModelVersion

NAME = "dashboard"
MOST_COMMUNITIES = 500
_LIST_SECONDS = 300
_WINDOW_NAMES = {"24h": "A day", "7d": "A week", "30d": "30 days", "90d": "90 days"}
_STATE = ("panel", "window", "community", "source", "version")


class Dashboard(DjangoDash):
    """Makes its Dash instance once: by itself django-plotly-dash makes one for every request."""

    _instance: Any = None

    def as_dash_instance(self, cache_id: Any = None) -> Any:
        if self._instance is None:
            self._instance = super().as_dash_instance(cache_id)
        return self._instance


def find(name: str) -> DjangoDash:
    """Return the application of that name. django-plotly-dash calls this (`stateless_loader`).

    Raises:
        Http404: the name is unknown. django-plotly-dash itself would answer with a server error.
    """
    if name != NAME:
        raise Http404(f"There is no Dash application called {name}.")
    return app


def state_of(query: str) -> dict[str, str | None]:
    """Return what a query string chooses; what is missing or unknown is the default."""
    given = {name: values[0] for name, values in parse_qs(query.lstrip("?"), keep_blank_values=True).items()}
    version = given.get("version", "")
    return {
        "panel": given["panel"] if given.get("panel") in PANELS else "now",
        "window": given["window"] if given.get("window") in WINDOWS else "7d",
        "community": given.get("community"),
        "source": given["source"] if given.get("source") in Prediction.Source.values else None,
        "version": version if version.isdecimal() and len(version) < 10 else None,
    }


def query_of(state: dict[str, str | None]) -> str:
    """Return the query string that `state_of` reads, without values that can't be looked up."""
    return "?" + urlencode(
        {name: value for name, value in state.items() if value is not None and is_storable(value)}
    )


def filters_of(state: dict[str, str | None], user: User) -> Filters:
    """Return what part of the traffic is looked at, as far as the user may."""
    return Filters(
        window=state["window"] or "7d",
        community=access.community_for(user, state["community"]),
        source=state["source"] or "",
        version=int(state["version"]) if state["version"] else None,
    )


def communities(user: User) -> list[dict[str, str]]:
    """Return the communities that the user may choose from."""
    names = communities_of(user)
    if names is None:
        names = cache.get_or_set("monitoring:communities", _communities, _LIST_SECONDS)
    return [{"label": name or "(none)", "value": f"={name}"} for name in names or ()]


def _communities() -> list[str]:
    rows = HourlyRollup.objects.filter(overall=False).order_by("community")
    return list(rows.values_list("community", flat=True).distinct()[:MOST_COMMUNITIES])


def _versions() -> list[dict[str, str]]:
    numbers = ModelVersion.objects.values_list("number", flat=True)[:100]
    return [{"label": f"v{number}", "value": str(number)} for number in numbers]


def _choice(name: str, title: str, component: Any) -> Any:
    return html.Div(
        [html.Span(title, id=f"{name}-title", className="title"), component],
        className=f"choice {name}",
        role="group",
        **{"aria-labelledby": f"{name}-title"},
    )


def _radio(name: str, options: dict[str, str], value: str) -> Any:
    return dcc.RadioItems(
        id=name,
        options=[{"label": text, "value": key} for key, text in options.items()],
        value=value,
        inline=True,
    )


def _dropdown(name: str, placeholder: str, options: list[dict[str, str]]) -> Any:
    return dcc.Dropdown(id=name, options=options, placeholder=placeholder, searchable=len(options) > 8)


def _layout() -> Any:
    return html.Div(
        [
            dcc.Location(id="url", refresh=False),
            dcc.Interval(id="tick", interval=60_000),
            html.Div(
                [
                    _choice(
                        "panel",
                        "Panel",
                        _radio("panel", {key: name for key, (name, _) in PANELS.items()}, "now"),
                    ),
                    _choice("window", "Time", _radio("window", _WINDOW_NAMES, "7d")),
                    _choice("community", "Community", _dropdown("community", "all", [])),
                    _choice(
                        "source",
                        "Source",
                        _dropdown(
                            "source",
                            "all",
                            [{"label": text, "value": key} for key, text in Prediction.Source.choices],
                        ),
                    ),
                    _choice("version", "Version", _dropdown("version", "all", [])),
                ],
                className="filters",
            ),
            html.Div(id="content", className="panel-content"),
        ]
    )


def _plot(name: str, plot: Plot) -> Any:
    identity = f"{name}-{plot.key}".replace(" ", "-").replace(",", "")
    config = {"displayModeBar": False, "responsive": True}
    empty = not any(value is not None for series in plot.series for value in series.y)
    body = (
        html.P("Nothing to draw yet.", className="empty")
        if empty
        else dcc.Graph(id=identity, figure=figure(plot), config=config, style={"height": f"{height(plot)}px"})
    )
    return html.Figure([html.Figcaption(plot.sentence), body], **{"data-plot": plot.key})


def _as_of(freshness: Freshness) -> list[Any]:
    """The time that the data are of, in red and with the reasons where they are late."""
    moment = freshness.as_of
    late = [html.Strong("Late: ")] if freshness.is_late else []
    if moment:
        text = ["Data as of ", html.Time(f"{moment:%Y-%m-%d %H:%M} UTC", dateTime=moment.isoformat())]
    else:
        text = ["No traffic has been counted yet."]
    reasons = [html.Li(problem) for problem in freshness.problems]
    return [
        html.P([*late, *text], className=f"as-of {freshness.status}"),
        *([html.Ul(reasons, className="reasons")] if reasons else []),
    ]


def draw(name: str, panel: Panel, query: str) -> list[Any]:
    """Return a panel as Dash components."""
    tiles = [
        html.Div(
            [html.Dt(tile.name), html.Dd(tile.value), html.Dd(tile.note, className="note")],
            className="tile bad" if tile.is_bad else "tile",
        )
        for tile in panel.tiles
    ]
    return [
        html.Div(
            [
                html.H2(panel.question),
                html.A(
                    "Download as CSV", href=reverse("monitoring:csv", args=[name]) + query, className="csv"
                ),
            ],
            className="head",
        ),
        *(_as_of(panel.freshness) if panel.freshness else []),
        html.P(panel.sentence, className="answer"),
        *([html.Dl(tiles, className="tiles")] if tiles else []),
        html.Div([_plot(name, plot) for plot in panel.plots], className="plots"),
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
def show(
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
    """Draw the chosen panel; the address follows the choice, and the choice a changed address."""
    viewer = access.require(user)
    changed = {each["prop_id"] for each in callback_context.triggered}
    if changed - {"url.search", "."}:
        search = query_of(
            {
                "panel": panel,
                "window": window,
                "community": community[1:] if community else None,
                "source": source,
                "version": version,
            }
        )
    state = state_of(search or "")
    filters = filters_of(state, viewer)
    state["community"] = filters.community
    query = query_of(state)
    name = state["panel"] or "now"
    chosen = None if filters.community is None else f"={filters.community}"
    return [
        draw(name, build(name, filters), query),
        query,
        name,
        state["window"],
        chosen,
        state["source"],
        state["version"],
        communities(viewer),
        _versions(),
    ]
