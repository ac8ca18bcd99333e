"""The view that receives the requests of connected platforms."""

from uuid import UUID

from rest_framework.exceptions import AuthenticationFailed, NotFound, Throttled
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.limits import unknown_key_wait
from apps.api.parsers import parse_json, read_body
from apps.connectors import actions
from apps.connectors.adapters import ADAPTERS
from apps.connectors.models import Connection


class ReceiveView(APIView):
    """Moderates the comments of a platform's request. The signature of the body is its authentication."""

    authentication_classes = []
    permission_classes = []
    throttle_classes = []
    schema = None

    def post(self, request: Request, pk: UUID) -> Response:
        body = read_body(request)  # type: ignore[arg-type]  # a request has the methods of a file
        connection = Connection.objects.filter(pk=pk, is_active=True).first()
        adapter = ADAPTERS.get(connection.platform) if connection else None
        if connection is None or adapter is None:
            raise NotFound("There is no such connection, or it is not active.")
        if not adapter.verify(connection.secret, request.headers, body):
            if (seconds := unknown_key_wait(request._request)) is not None:
                raise Throttled(seconds, "Your address has sent too many requests without a valid signature.")
            raise AuthenticationFailed(
                f"The header {adapter.signature_header} does not have the signature of this body: the secret "
                "of the connection must be the platform's."
            )
        response = actions.receive(connection=connection, headers=request.headers, data=parse_json(body))
        return Response(response, status=200 if response else 204)
