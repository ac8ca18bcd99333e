"""The views of the OpenAI-compatible API."""

from typing import Any

from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.accounts.models import Scope
from apps.api.authentication import BearerAuthentication
from apps.api.openai.categories import build_result
from apps.api.openai.errors import exception_handler
from apps.api.openai.serializers import ErrorResponse, ModerationRequest, ModerationResponse
from apps.predictions import actions
from apps.predictions.models import Prediction


class OpenAIView(APIView):
    """A view with API keys as bearer tokens and errors in OpenAI's format."""

    authentication_classes = [BearerAuthentication]

    def get_exception_handler(self) -> Any:
        return exception_handler


class ModerationsView(OpenAIView):
    """Score texts in the categories of OpenAI's moderation API."""

    scope = Scope.PREDICT

    @extend_schema(
        request=ModerationRequest,
        responses={
            200: ModerationResponse,
            **dict.fromkeys((400, 401, 403, 413, 415, 429, 503), ErrorResponse),
        },
        operation_id="create_moderation",
    )
    def post(self, request: Request) -> Response:
        data = ModerationRequest.validated(request.data)
        predictions, model = actions.score(
            texts=data["input"],
            source=Prediction.Source.OPENAI,
            api_key=request.auth,
            do_not_store=data["do_not_store"],
        )
        return Response(
            {
                "id": f"modr-{predictions[0].pk}",
                "model": f"toxicmod-{model.number}",
                "results": list(map(build_result, predictions)),
            }
        )


class UnknownPathView(OpenAIView):
    """The error for every other path below `/v1/`, in OpenAI's format."""

    schema = None
    authentication_classes = []

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        raise NotFound("This server has no such path. Of OpenAI's API it has POST /v1/moderations.")
