"""Base classes for the admin of every app."""

from collections.abc import Callable
from functools import cache
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import FloatField, ForeignKey, Model, QuerySet, URLField
from django.http import HttpRequest
from django.utils.functional import cached_property

from apps.core.text import format_number


class LargeTablePaginator(Paginator):
    """Pages of a table that is too large to count; offers at most the first hundred pages."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by().values("pk")[: self.per_page * 100].count()


@cache
def _number_column(model: type[Model], name: str) -> Callable[[Model], str]:
    """Return a column of the admin that shows a float field by `format_number`."""

    @admin.display(description=model._meta.get_field(name).verbose_name, ordering=name)  # type: ignore[union-attr]
    def column(row: Model) -> str:
        return format_number(getattr(row, name))

    column.__name__ = name
    return column


@cache
def _name_column(model: type[Model], name: str) -> Callable[[Model], str]:
    """Return a column of the admin that names a related object without a link to it."""

    @admin.display(description=model._meta.get_field(name).verbose_name)  # type: ignore[union-attr]
    def column(row: Model) -> str:
        related = getattr(row, name)
        return "–" if related is None else str(related)

    column.__name__ = name
    return column


class ReadOnlyAdmin(admin.ModelAdmin):
    """Rows that serve as evidence: users with the view permission can read them, nobody can change them.

    Float fields have four significant digits here; the API and the exports have all of them.
    """

    show_full_result_count = False
    formfield_overrides = {URLField: {"assume_scheme": "https"}}  # the default of Django 6; 5 warns without

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_list_display(self, request: HttpRequest) -> Any:
        return self._format_numbers(super().get_list_display(request))

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        return [
            (title, options | {"fields": self._unlink(request, self._format_numbers(options["fields"]))})
            for title, options in fieldsets
        ]

    def _unlink(self, request: HttpRequest, columns: list[Any]) -> list[Any]:
        """Return the columns, without links to related objects that the user may not view."""
        model: Any = self.model
        unlinked = {
            field.name
            for field in model._meta.fields
            if isinstance(field, ForeignKey)
            and (related_admin := self.admin_site._registry.get(field.remote_field.model))
            and not related_admin.has_view_permission(request)
        }
        return [
            _name_column(model, column) if isinstance(column, str) and column in unlinked else column
            for column in columns
        ]

    def _format_numbers(self, columns: Any) -> list[Any]:
        model: Any = self.model
        floats = {field.name for field in model._meta.fields if isinstance(field, FloatField)}
        return [
            _number_column(model, column) if isinstance(column, str) and column in floats else column
            for column in columns
        ]
