"""Every number that a person enters in a form, a request or a command has a minimum and a maximum."""

from argparse import ArgumentTypeError
from collections.abc import Iterator
from typing import Any

import pytest
from django import forms
from django.contrib import admin
from django.core.management import get_commands, load_command_class
from django.core.validators import MaxValueValidator, MinValueValidator
from django.test import RequestFactory
from django.urls import get_resolver
from rest_framework import serializers

from apps.accounts.models import User
from apps.api.fields import StrictSerializer
from apps.core.management import number_from
from apps.core.models import MAX_BIG_INTEGER


def subclasses(base: type[Any]) -> Iterator[type[Any]]:
    cls: type[Any]
    for cls in base.__subclasses__():
        if cls.__module__.startswith("apps."):
            yield cls
        yield from subclasses(cls)


def are_limited(validators: list[Any]) -> bool:
    """Whether there are a minimum and a maximum that every database can store."""
    limits = {
        type(validator): validator.limit_value
        for validator in validators
        if isinstance(validator, MinValueValidator | MaxValueValidator)
    }
    return len(limits) == 2 and max(map(abs, limits.values())) <= MAX_BIG_INTEGER


def is_share(field: forms.IntegerField, form: type) -> bool:
    """Whether a constraint of the database limits the number from 0 to 1; see `test_constraints`."""
    return isinstance(field, forms.FloatField) and form.__name__ in {"PolicyForm", "RuleForm"}


def form_fields() -> Iterator[tuple[str, list[Any]]]:
    """Yield the name and the validators of each number in a form of the site or of the admin."""
    assert get_resolver().url_patterns  # importing the URLs registers the models with the admin
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_active=True, is_staff=True)
    classes: set[Any] = set(subclasses(forms.BaseForm))
    for model_admin in admin.site._registry.values():
        if model_admin.has_add_permission(request) or model_admin.has_change_permission(request):
            classes.add(model_admin.get_form(request))
    for cls in classes:
        model = cls._meta.model if issubclass(cls, forms.ModelForm) else None
        for name, field in cls.base_fields.items():
            if isinstance(field, forms.IntegerField) and not is_share(field, cls):
                # `validators` of a model's field would add the limits of the database that the test uses.
                of_model = model._meta.get_field(name)._validators if model else []
                yield f"{cls.__name__}.{name}", [*field.validators, *of_model]


def test_forms_limit_numbers() -> None:
    fields = dict(form_fields())
    assert {"PolicyForm.due_minutes", "RolloutForm.share", "PreferenceForm.exposure_limit"} <= set(fields)
    assert {"rate_per_minute", "notification_interval_minutes"} <= {name.split(".")[1] for name in fields}
    assert [name for name, validators in fields.items() if not are_limited(validators)] == []


def test_api_requests_limit_numbers() -> None:
    fields = {
        f"{cls.__name__}.{name}": field
        for cls in subclasses(StrictSerializer)
        for name, field in cls().fields.items()
        if isinstance(field, serializers.IntegerField | serializers.FloatField)
    }
    assert "DecideRequest.seconds" in fields
    assert [name for name, field in fields.items() if not are_limited(field.validators)] == []


def test_commands_limit_numbers() -> None:
    # The options of `train_encoder` are the fields of its configuration.
    commands = {
        name: load_command_class(app, name).create_parser("manage.py", name)
        for name, app in get_commands().items()
        if str(app).startswith("apps.") and name != "train_encoder"
    }
    assert len(commands) > 20
    assert [
        f"{name} {action.dest}"
        for name, parser in commands.items()
        for action in parser._actions
        if action.type in {int, float} and action.dest != "verbosity"
    ] == []


@pytest.mark.parametrize("text", ["0", "11", "-1", "x", "1.5", "9" * 5_000])
def test_number_from_rejects(text: str) -> None:
    with pytest.raises(ArgumentTypeError, match="enter a number from 1 to 10"):
        number_from(1, 10)(text)


@pytest.mark.parametrize("text", ["nan", "inf", "1e300"])
def test_number_from_rejects_numbers_that_are_not_finite(text: str) -> None:
    with pytest.raises(ArgumentTypeError):
        number_from(0.0, 1.0)(text)
    assert number_from(0.0, 1.0)("0.25") == 0.25
