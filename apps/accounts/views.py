"""The page on which staff switch their second factor on and off."""

import segno
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from apps.accounts import second_factor
from apps.accounts.exceptions import TwoFactorError
from apps.accounts.forms import CodeForm
from apps.accounts.models import User

_KEY = "second_factor_key"
_CODES = "second_factor_codes"  # until they were shown


@never_cache
@require_http_methods(["GET", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    """Show whether the second factor is on, and take the code that switches it."""
    user = request.user
    assert isinstance(user, User)  # `admin_view` lets nobody else through
    form = CodeForm(request.POST or None)
    key = None
    if not second_factor.is_on(user):
        # Kept until it is confirmed, so that a wrong code does not ask for another scan.
        key = request.session.setdefault(_KEY, second_factor.new_key())
    if request.method == "POST" and ("off" in request.POST) != (key is None):
        # Another tab or a second click has done it already: it is not to be switched back.
        return redirect("admin:second_factor")
    if form.is_valid():
        try:
            if key is None:
                second_factor.check(user=user, code=form.cleaned_data["code"])
                second_factor.switch_off(user)
                messages.success(
                    request, "Two-factor authentication is off. You sign in with your password alone."
                )
                return redirect("admin:second_factor")
            request.session[_CODES] = second_factor.switch_on(
                user=user, key=key, code=form.cleaned_data["code"]
            )
            del request.session[_KEY]
            return redirect("admin:second_factor")
        except TwoFactorError as error:
            form.add_error("code", str(error))
    context = admin.site.each_context(request) | {"title": "Two-factor authentication", "form": form}
    if key is None:
        codes = None if request.method == "POST" else request.session.pop(_CODES, None)
        context |= {"is_on": True, "codes": codes, "left": second_factor.codes_left(user)}
    else:
        picture = segno.make(second_factor.address(user, key), micro=False)
        svg = picture.svg_inline(scale=5, light="white")
        context |= {"key": second_factor.readable(key), "picture": mark_safe(svg)}  # drawn here, of our own
    return render(request, "accounts/second_factor.html", context)
