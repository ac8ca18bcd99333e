"""Every number that a person enters in a form, a request or a command has a minimum and a maximum."""

import argparse
from collections.abc import Iterator

import pytest
from django import forms
from django.contrib import admin
from django.core.management import get_commands, load_command_class
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.test import RequestFactory
from rest_framework import serializers

from apps.accounts.models import User
from apps.api.fields import StrictSerializer

MAX_INTEGER = 2**31 - 1  # PostgreSQL's integer


def subclasses(base: type) -> Iterator[type]:
    for cls in base.__subclasses__():
        if cls.__module__.startswith("apps."):
            yield cls
        yield from subclasses(cls)


def limits(validators: list[object], kind: type) -> list[float]:
    return [validator.limit_value for validator in validators if type(validator) is kind]  # type: ignore[attr-defined]


def form_fields() -> Iterator[tuple[str, list[object]]]:
    """Yield the name and the validators of each number in a form of the site or of the admin."""
    request = RequestFactory().get("/")
    request.user = User(is_superuser=True, is_active=True, is_staff=True)
    classes = {cls for cls in subclasses(forms.BaseForm) if hasattr(cls, "base_fields")}
    for model_admin in admin.site._registry.values():
        if model_admin.has_add_permission(request) or model_admin.has_change_permission(request):
            classes.add(model_admin.get_form(request))
    for cls in classes:
        model = cls._meta.model if issubclass(cls, forms.BaseModelForm) else None  # type: ignore[attr-defined]
        for name, field in cls.base_fields.items():  # type: ignore[attr-defined]
            if isinstance(field, forms.IntegerField):
                model_field = model._meta.get_field(name) if model else None
                yield (
                    f"{cls.__name__}.{name}",
                    [*field.validators, *(model_field._validators if model_field else [])],
                )
