"""The dashboard's page and its CSV files."""

import csv
from typing import Any

from csp.constants import SELF, UNSAFE_INLINE
from csp.decorators import csp_update
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.safestring import mark_safe
from django.views.decorators.http import require_safe
from django_plotly_dash.middleware import EmbeddedHolder
from django_plotly_dash.models import DashApp

from apps.core.text import escape_formula
from apps.monitoring.dashboard import PANELS, build_panel
from apps.monitoring.dashboard.app import NAME, filters_for, parse_state
from apps.monitoring.dashboard.charts import csv_rows
from apps.monitoring.permissions import dashboard_page, require_dashboard

# plotly.js sets inline styles and draws images from data URLs.
PLOTLY_CSP = {"style-src": [SELF, UNSAFE_INLINE], "img-src": [SELF, "data:"]}


@require_safe
@dashboard_page
@csp_update(PLOTLY_CSP)
def dashboard(request: HttpRequest) -> HttpResponse:
    """Respond with the page that embeds the Dash application."""
    _, app = DashApp.locate_item(NAME, stateless=True)
    embedded = EmbeddedHolder()
    app.set_embedded(embedded)
    entry = app.locate_endpoint_function()()
    app.exit_embedded()
    # Dash generates this from its own files and settings; it contains no user input.
    context = {name: mark_safe(getattr(embedded, name)) for name in ("css", "config", "scripts")}
    return render(request, "monitoring/dashboard.html", context | {"entry": mark_safe(entry)})


@require_safe
@dashboard_page
def download(request: HttpRequest, panel: str) -> HttpResponse:
    """Respond with a panel's numbers as a CSV file."""
    if panel not in PANELS:
        raise Http404(f"There is no panel “{panel}”.")
    filters = filters_for(parse_state(request.META["QUERY_STRING"]), require_dashboard(request.user))
    name = f"toxicmod-{panel}-{filters.end:%Y-%m-%dT%H}.csv"
    response = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
    writer = csv.writer(response)
    for row in csv_rows(build_panel(panel, filters)):
        writer.writerow([_csv_cell(cell) for cell in row])
    return response


def _csv_cell(cell: Any) -> Any:
    """Return a text safe from formula injection, or a float with six significant digits."""
    if isinstance(cell, str):
        return escape_formula(cell)
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell
