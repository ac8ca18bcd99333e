"""The sign-in form, with two-factor authentication for users who enabled it."""

from typing import Any

from django import forms
from django.contrib.admin.forms import AdminAuthenticationForm

from apps.accounts import sign_in, two_factor
from apps.accounts.exceptions import TwoFactorError
from apps.accounts.models import User

_CODE = {"autocomplete": "one-time-code", "autofocus": True, "spellcheck": "false", "autocapitalize": "none"}


class CodeForm(forms.Form):
    """A code from the app, or a recovery code."""

    code = forms.CharField(max_length=32, widget=forms.TextInput(attrs=_CODE))


class SignInForm(AdminAuthenticationForm):
    """User name and password, then the code if two-factor authentication is on."""

    code = forms.CharField(required=False, max_length=32, widget=forms.TextInput(attrs=_CODE))
    requires_code = False

    def clean(self) -> dict[str, Any]:
        """Check the password and the code.

        Raises:
            ValidationError: the password or the code is wrong.
            TooManySignInsError: too many sign-ins have failed.
        """
        assert self.request is not None  # `AdminSite.login` passes it
        username = self.cleaned_data.get("username") or ""
        sign_in.require_attempt(self.request, username)
        try:
            return self._authenticate()
        except forms.ValidationError:
            if not self.requires_code or self.cleaned_data.get("code"):
                sign_in.record_failure(self.request, username)
            raise

    def _authenticate(self) -> dict[str, Any]:
        cleaned = super().clean()
        user = self.get_user()
        if isinstance(user, User) and two_factor.is_enabled(user):
            self.requires_code = True
            try:
                two_factor.verify(user=user, code=cleaned.get("code", ""))
            except TwoFactorError as error:
                raise forms.ValidationError(str(error)) from None
        return cleaned
