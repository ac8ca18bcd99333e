"""The OpenAPI document of `/api/v1/`."""

import threading
from typing import Any

from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request
from rest_framework.response import Response

_lock = threading.Lock()


class SchemaView(SpectacularAPIView):
    """Generates the document for one request at a time.

    drf-spectacular imports the classes of its extensions on first use, which is not thread-safe.
    """

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        with _lock:
            return super().get(request, *args, **kwargs)
