"""The URL of the site as clients know it. The Perspective API and the pages use it in absolute links."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from django.conf import settings
from django.http import HttpRequest
from django.http.request import split_domain_port


def root_url(request: HttpRequest) -> str:
    """Return the URL of the site for the client of a request, with a slash at the end.

    Behind a proxy that ends TLS and sends no X-Forwarded-Proto, only PUBLIC_URL says that clients use HTTPS.
    Clients may know the site by another host name than PUBLIC_URL, such as that of Perspective.
    """
    public = urlsplit(settings.PUBLIC_URL)
    host, _ = split_domain_port(request.get_host())
    if public.hostname == host:
        return f"{public.scheme}://{public.netloc}/"
    if public.scheme == "https" and not _is_local(host):
        return f"https://{request.get_host()}/"
    return request.build_absolute_uri("/")


def _is_local(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost"
    return True
