"""The page on which staff switch two-factor authentication on and off."""

import segno
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.accounts import two_factor
from apps.accounts.exceptions import TwoFactorError
from apps.accounts.forms import CodeForm
from apps.accounts.models import User

_KEY = "two_factor_key"
_CODES = "two_factor_codes"  # recovery codes that have not been shown yet


@never_cache
@require_http_methods(["GET", "POST"])
def two_factor_page(request: HttpRequest) -> HttpResponse:
    """Show whether two-factor authentication is on; a POST with a code switches it on or off."""
    user = request.user
    assert isinstance(user, User)  # `admin_view` rejects anonymous visitors
    form = CodeForm(request.POST or None)
    key = None
    if not two_factor.is_enabled(user):
        # The session keeps the key, so that a wrong code does not require another scan.
        key = request.session.setdefault(_KEY, two_factor.generate_key())
    if request.method == "POST" and ("off" in request.POST) != (key is None):
        # Another tab or a second click has switched it already.
        return redirect("admin:two_factor")
    if form.is_valid():
        try:
            if key is None:
                two_factor.verify(user=user, code=form.cleaned_data["code"])
                two_factor.disable(user)
                messages.success(
                    request, "Two-factor authentication is off. You sign in with your password alone."
                )
                return redirect("admin:two_factor")
            request.session[_CODES] = two_factor.enable(user=user, key=key, code=form.cleaned_data["code"])
            del request.session[_KEY]
            return redirect("admin:two_factor")
        except TwoFactorError as error:
            form.add_error("code", str(error))
    context = admin.site.each_context(request) | {"title": "Two-factor authentication", "form": form}
    if key is None:
        codes = None if request.method == "POST" else request.session.pop(_CODES, None)
        context |= {"is_on": True, "codes": codes, "unused_codes": two_factor.count_recovery_codes(user)}
    else:
        picture = segno.make(two_factor.build_url(user, key), micro=False)
        svg = picture.svg_inline(scale=5, light="white")
        context |= {
            "key": two_factor.format_key(key),
            "picture": mark_safe(svg),  # segno generated it without user input
        }
    return render(request, "accounts/two_factor.html", context)
