"""The dashboard's page and its downloads."""

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
from apps.monitoring import access
from apps.monitoring import dashboard as drawn
from apps.monitoring.figures import table
from apps.monitoring.panels import PANELS, build

# plotly.js sets styles of what it draws; scripts come from this site as everywhere.
DRAWING = {"style-src": [SELF, UNSAFE_INLINE], "img-src": [SELF, "data:"]}


@require_safe
@access.page
@csp_update(DRAWING)
def dashboard(request: HttpRequest) -> HttpResponse:
    """Draw the page into which the Dash application draws itself."""
    _, app = DashApp.locate_item("dashboard", stateless=True)
    parts = EmbeddedHolder()
    app.set_embedded(parts)
    entry = app.locate_endpoint_function()()
    app.exit_embedded()
    # Written by Dash of its own files and settings; nothing of it comes from a visitor.
    context = {name: mark_safe(getattr(parts, name)) for name in ("css", "config", "scripts")}
    return render(request, "monitoring/dashboard.html", context | {"entry": mark_safe(entry)})


def _csv_cell(cell: Any) -> Any:
    """Return a cell without formulas, and a float with six digits that count: people read the file."""
    if isinstance(cell, str):
        return escape_formula(cell)
    return float(f"{cell:.6g}") if isinstance(cell, float) else cell


@require_safe
@access.page
def download(request: HttpRequest, panel: str) -> HttpResponse:
    """Send a panel's numbers as a CSV file."""
    if panel not in PANELS:
        raise Http404(f"There is no panel “{panel}”.")
    user = access.require(request.user)
    filters = drawn.filters_of(drawn.state_of(request.META["QUERY_STRING"]), user)
    name = f"toxicmod-{panel}-{filters.end:%Y-%m-%dT%H}.csv"
    response = HttpResponse(
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )
    writer = csv.writer(response)
    for row in table(build(panel, filters)):
        writer.writerow([_csv_cell(cell) for cell in row])
    return response
