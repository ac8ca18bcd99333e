"""Addresses of the monitoring dashboard, and the requests that its script sends."""

import json

PAGE, CALLBACK = "/monitoring/", "/monitoring/dash/app/dashboard/_dash-update-component"
_NAMES = ("panel", "window", "community", "source", "version")


def callback_body(search: str = "", changed: str = "", **values: str) -> str:
    """Return the body of the request that draws a panel."""
    outputs = [("content", "children"), ("url", "search"), *((name, "value") for name in _NAMES)]
    outputs += [("community", "options"), ("version", "options")]
    return json.dumps(
        {
            "output": "..{}..".format("...".join(".".join(output) for output in outputs)),
            "outputs": [{"id": name, "property": prop} for name, prop in outputs],
            "inputs": [
                {"id": "url", "property": "search", "value": search},
                *({"id": name, "property": "value", "value": values.get(name)} for name in _NAMES),
                {"id": "tick", "property": "n_intervals", "value": 0},
            ],
            "changedPropIds": [changed] if changed else [],
        }
    )
