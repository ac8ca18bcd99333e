"""The upper bound: `gunicorn constant:application`, a Django view that returns a constant."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

settings.configure(SECRET_KEY="-", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__)


@csrf_exempt
def constant(request: HttpRequest) -> JsonResponse:
    response = JsonResponse({"toxic": 0.5})
    response["Content-Length"] = str(len(response.content))
    return response


urlpatterns = [path("", constant)]
application = get_wsgi_application()
