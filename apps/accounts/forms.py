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
    """User name and password, then the code if two-factor authentication is on.

    The second step sends the user name and the code. The session keeps whose password was right.
    """

    code = forms.CharField(required=False, max_length=32, widget=forms.TextInput(attrs=_CODE))
    requires_code = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_code_step = "code" in self.data and "password" not in self.data
        self.fields["password"].required = not self.is_code_step

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
        assert self.request is not None
        if self.is_code_step:
            cleaned = self.cleaned_data
            self.user_cache = sign_in.pending_user(self.request, cleaned.get("username") or "")
            if self.user_cache is None:
                raise forms.ValidationError(
                    "The time to enter the code is over. Enter your username and password again."
                )
            self.confirm_login_allowed(self.user_cache)
        else:
            cleaned = super().clean()
        user = self.get_user()
        if isinstance(user, User) and two_factor.is_enabled(user):
            self.requires_code = True
            try:
                two_factor.verify(user=user, code=cleaned.get("code", ""))
            except TwoFactorError as error:
                if not self.is_code_step:
                    sign_in.start_code_step(self.request, user)
                raise forms.ValidationError(str(error)) from None
        sign_in.end_code_step(self.request)
        return cleaned
