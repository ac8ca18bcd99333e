"""The JSON renderer of `/api/v1/`."""

from collections.abc import Mapping
from typing import Any

import orjson
from rest_framework import renderers


class JSONRenderer(renderers.JSONRenderer):
    """Renders JSON with orjson."""

    ensure_ascii = True  # for the fallback: a lone surrogate can't be encoded in UTF-8

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return the body; use the standard library for lone surrogates, which orjson rejects."""
        try:
            if data is not None:
                return orjson.dumps(data, self.encoder_class().default, orjson.OPT_PASSTHROUGH_DATETIME)
        except TypeError:
            pass
        return super().render(data, accepted_media_type, renderer_context)
