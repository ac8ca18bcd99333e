"""Base classes for the admin of every app."""

from collections.abc import Callable
from functools import cache, partial, update_wrapper
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.models import PermissionsMixin
from django.core.paginator import Paginator
from django.db.models import FloatField, ForeignKey, Model, QuerySet, URLField
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from apps.core.text import format_number, name_community


def link(viewer: PermissionsMixin, name: str, text: str, *args: Any, **filters: Any) -> SafeString | str:
    """Return a link to an admin page, or only the text if the viewer may not view that page.

    Args:
        name: the name of the page's URL, such as `training_dataset_change`.
        filters: the query of a list.
    """
    app, model, _ = name.split("_")
    if not viewer.has_perm(f"{app}.view_{model}"):
        return text
    return format_html(
        '<a href="{}">{}</a>', reverse(f"admin:{name}", args=args, query=filters or None), text
    )


def viewer_display(**options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Declare a column of a `ReadOnlyAdmin` that is called with the row and the user who views it.

    Args:
        options: those of `admin.display`.
    """

    def decorate(method: Any) -> Callable[..., Any]:
        method.needs_viewer = True
        return admin.display(**options)(method)

    return decorate


MAX_PAGES = 100  # of a table that is too large to count


class LargeTablePaginator(Paginator):
    """Pages of a table that is too large to count; offers at most the first MAX_PAGES pages."""

    @cached_property
    def count(self) -> int:
        rows: QuerySet[Any] = self.object_list  # type: ignore[assignment]
        return rows.order_by().values("pk")[: self.per_page * MAX_PAGES].count()

    @property
    def is_cut_off(self) -> bool:
        """Whether there may be more rows than the pages show."""
        return self.count == self.per_page * MAX_PAGES


@cache
def _number_column(model: type[Model], name: str) -> Callable[[Model], str]:
    """Return a column of the admin that shows a float field by `format_number`."""

    @admin.display(description=model._meta.get_field(name).verbose_name, ordering=name)  # type: ignore[union-attr]
    def column(row: Model) -> str:
        return format_number(getattr(row, name))

    column.__name__ = name
    return column


@cache
def _community_column(empty_community: str) -> Callable[[Any], str]:
    """Return a column of the admin that names the row's community."""

    @admin.display(description="community", ordering="community")
    def community(row: Any) -> str:
        return row.community or empty_community

    return community


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
    """A table that users with the view permission can read and that no user can change.

    Float fields have four significant digits here; the API and the exports have all of them.
    """

    show_full_result_count = False
    empty_community = name_community("")  # what the empty name of a community stands for
    formfield_overrides = {URLField: {"assume_scheme": "https"}}  # the default of Django 6; 5 warns without

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        response = super().changelist_view(request, extra_context)
        changelist = getattr(response, "context_data", {}).get("cl")
        if changelist and getattr(changelist.paginator, "is_cut_off", False):
            count = f"{changelist.paginator.count:,}"
            messages.info(request, f"The list ends after {count} rows. Search or filter it to see others.")
        return response

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_list_display(self, request: HttpRequest) -> Any:
        return self._bind_viewer(request, self._format_columns(super().get_list_display(request)))

    def get_fieldsets(self, request: HttpRequest, obj: Model | None = None) -> Any:
        fieldsets = super().get_fieldsets(request, obj)
        return [
            (title, options | {"fields": self._bind_viewer(request, self._unlink(request, fields))})
            for title, options in fieldsets
            for fields in [self._format_columns(options["fields"])]
        ]

    def _bind_viewer(self, request: HttpRequest, columns: list[Any]) -> list[Any]:
        """Return the columns, those of `viewer_display` as functions of the row."""
        methods: list[Any] = [
            getattr(self, column, None) if isinstance(column, str) else None for column in columns
        ]
        return [
            update_wrapper(partial(method, viewer=request.user), method)
            if getattr(method, "needs_viewer", False)
            else column
            for column, method in zip(columns, methods, strict=True)
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

    def _format_columns(self, columns: Any) -> list[Any]:
        """Return the columns; those of numbers and of the community's name as functions of the row."""
        model: Any = self.model
        fields = {field.name: field for field in model._meta.fields}

        def formatted(column: Any) -> Any:
            field = fields.get(column) if isinstance(column, str) else None
            if isinstance(field, FloatField):
                return _number_column(model, column)
            is_community = field is not None and column == "community"
            return _community_column(self.empty_community) if is_community else column

        return [formatted(column) for column in columns]
