"""The sign-in, with a second factor for those who have one."""

from typing import Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm

from apps.accounts import second_factor, sign_in
from apps.accounts.exceptions import TwoFactorError
from apps.accounts.models import User

_CODE = {"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false", "autocapitalize": "none"}


class CodeForm(forms.Form):
    """One code, from the app or of the recovery codes."""

    code = forms.CharField(max_length=32, widget=forms.TextInput(attrs=_CODE))


class SignInForm(AdminAuthenticationForm):
    """Name and password, then the code where the second factor is on."""

    code = forms.CharField(required=False, max_length=32, widget=forms.TextInput(attrs=_CODE))
    asks_for_code = False

    def clean(self) -> dict[str, Any]:
        """Check the code too.

        Raises:
            ValidationError: the password or the code is wrong.
            TooManySignInsError: too many sign-ins failed before.
        """
        assert self.request is not None  # `AdminSite.login` passes it
        username = self.cleaned_data.get("username") or ""
        sign_in.require_attempt(self.request, username)
        try:
            return self._check()
        except forms.ValidationError:
            if not self.asks_for_code or self.cleaned_data.get("code"):
                sign_in.record_failure(self.request, username)
            raise

    def _check(self) -> dict[str, Any]:
        cleaned = super().clean()
        user = self.get_user()
        if isinstance(user, User) and second_factor.is_on(user):
            self.asks_for_code = True
            try:
                second_factor.check(user=user, code=cleaned.get("code", ""))
            except TwoFactorError as error:
                raise forms.ValidationError(str(error)) from None
        return cleaned
