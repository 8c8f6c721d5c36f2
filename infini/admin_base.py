"""What every admin here shares: writes through ``infini.records``, errors of verbs as messages and form errors, secrets
never shown, object pages, actions only by POST.
"""

from collections.abc import Callable, Sequence
from html import escape
from typing import Any

from django.contrib.admin.utils import flatten
from django.contrib.admin.views.main import ORDER_VAR
from django.core.exceptions import PermissionDenied
from django.db import models
from django.db.models import Model, QuerySet
from django.forms.utils import flatatt
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import cached_property
from django.utils.safestring import SafeString
from django.utils.text import capfirst
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from infini import extras, records, tabs, visibility
from infini.admin_csv import CsvAdmin
from infini.admin_forms import BaseForm
from infini.admin_lists import OwnListsAdmin
from infini.admin_verbs import Verb, VerbsAdmin, ask_first, do, list_url, names_of
from infini.confirmation import typed_name
from infini.display import ABSENT, url_of
from infini.errors import InfiniError, StaleVersion
from infini.fields import EncryptedTextField
from infini.secret_fields import SecretField
from infini.tabs import Tab
from infini.theme import (
    AdminPasswordChangeForm,
    AuthenticationForm,
    ChangeList,
    ChoicesDropdownFilter,
    DropdownFilter,
    DropdownForm,
    ModelAdmin,
    UnfoldAdminFileFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
    UserChangeForm,
    UserCreationForm,
    WholeRowsDropdownFilter,
    display,
    result_headers,
)

__all__ = [
    "AdminPasswordChangeForm",
    "AuthenticationForm",
    "BaseAdmin",
    "BaseForm",
    "ChoicesDropdownFilter",
    "DropdownFilter",
    "ModelAdmin",
    "MonoTextarea",
    "PageChangeList",
    "PagedAdmin",
    "RecordAdmin",
    "RelatedDropdownFilter",
    "UnfoldAdminFileFieldWidget",
    "UnfoldAdminIntegerFieldWidget",
    "UnfoldAdminSelect2MultipleWidget",
    "UnfoldAdminSelectWidget",
    "UnfoldAdminTextInputWidget",
    "UnfoldBooleanSwitchWidget",
    "UserChangeForm",
    "UserCreationForm",
    "display",
]


class NamesSelect(UnfoldAdminSelectWidget):
    """unfold's menu with its options joined in one go: with a template for each, a menu of hundreds of servers took
    longer than the list it filters."""

    def render(self, name: str, value: Any, attrs: Any = None, renderer: Any = None) -> SafeString:
        chosen = set(self.format_value(value))
        options = SafeString("".join(_option(pk, text, str(pk) in chosen) for pk, text in self.choices))
        named = flatatt(self.build_attrs(self.attrs, attrs) | {"name": name})
        context = {"attributes": named, "options": options}
        return render_to_string("partials/names_select.html", context)


def _option(value: Any, text: Any, is_chosen: bool) -> str:
    return f'<option value="{escape(str(value))}"{" selected" if is_chosen else ""}>{escape(str(text))}</option>'


class NamesForm(DropdownForm):
    widget = NamesSelect({"data-theme": "admin-autocomplete", "class": "unfold-admin-autocomplete admin-autocomplete"})


class RelatedDropdownFilter(WholeRowsDropdownFilter):
    """Offers names: of hundreds of servers not every column is loaded, nor every secret decrypted, for a menu."""

    form_class = NamesForm

    def field_choices(self, field: Any, request: HttpRequest, model_admin: Any) -> list[tuple[Any, str]]:
        model = field.remote_field.model
        named = [column.name for column in model._meta.concrete_fields if column.name in ("name", "name_zh", "model")]
        rows = visibility.visible(model._default_manager.only(*named), request.user)
        return [(row.pk, str(row)) for row in rows]


class MonoTextarea(UnfoldAdminTextareaWidget):
    """For commands and JSON."""

    def __init__(self, rows: int = 4) -> None:
        super().__init__({"rows": rows, "class": "mono", "spellcheck": "false", "autocapitalize": "off"})


class PageChangeList(ChangeList):
    """Rows lead to their object's page, where there is one; the list may be ordered by what it reckons itself."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._queries: dict[str, str] = {}
        super().__init__(*args, **options)
        self.title = str(self.model_admin.list_title or capfirst(self.opts.verbose_name_plural))

    def get_query_string(self, new_params: Any = None, remove: Any = None) -> str:
        """Made once for all rows: unfold asks for those of every column's head with each row."""
        asked = repr((new_params, remove))
        if asked not in self._queries:
            self._queries[asked] = super().get_query_string(new_params, remove)
        return self._queries[asked]

    def heads(self) -> list[dict[str, Any]]:
        """Of the columns, as the theme's template of them takes them."""
        return list(result_headers(self))

    def _get_default_ordering(self) -> Sequence[str]:
        return self.model_admin.list_ordering or super()._get_default_ordering()

    def get_results(self, request: HttpRequest) -> None:
        """First which rows, then all about them: sorting thousands must not reckon the columns of each."""
        self.result_list: Any
        super().get_results(request)
        ids = list(self.result_list.values_list("pk", flat=True))
        rows = self.apply_select_related(self.root_queryset).order_by().in_bulk(ids)
        self.result_list = [rows[pk] for pk in ids if pk in rows]

    @property
    def units(self) -> str:
        """What is counted below the list."""
        return str(self.model_admin.list_units or self.opts.verbose_name_plural)

    def heading_of(self, row: Any) -> str:
        """What stands above ``row`` and those after it that have the same; empty: nothing does."""
        return ""

    def get_ordering_field_columns(self) -> dict[int, str]:
        """Marks columns only when a person has sorted by them."""
        return super().get_ordering_field_columns() if ORDER_VAR in self.params else {}

    def url_for_result(self, result: Model) -> str:
        if self.model_admin.page_template:
            return self.model_admin.page_url(result)
        return super().url_for_result(result)


class BaseAdmin(OwnListsAdmin, CsvAdmin, VerbsAdmin, ModelAdmin):
    """Lists and pages alike; writes nothing by itself."""

    list_per_page = 50
    empty_value_display = ABSENT
    list_max_show_all = 200
    list_filter_submit = True
    list_fullwidth = True
    warn_unsaved_form = True
    compressed_fields = False
    page_template: str | None = None
    list_ordering: Sequence[str] = ()  # unlike ``ordering`` it stays this list's own: filters elsewhere do not take it
    empty_text: Any = ""
    list_units: Any = ""  # empty: the model's own name in the plural
    list_title: Any = ""  # empty: the model's own name in the plural
    find_icon = ""  # set: its objects are found by Ctrl+K, by ``search_fields``
    remove: Callable[..., object] = staticmethod(records.remove)
    removed_effect: Any = _("They are deleted for good. What still needs one of them keeps it.")

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return PageChangeList

    def described(self, request: HttpRequest) -> QuerySet:
        """Without what other apps show in the list alone."""
        return self.annotated(request, visibility.visible(self.model._default_manager.get_queryset(), request.user))

    def get_queryset(self, request: HttpRequest) -> QuerySet:
        rows = self.described(request)
        for column in extras.columns(self.opts.label_lower):
            rows = column.annotate(rows, request.user)
        ordering = self.get_ordering(request)
        return rows.order_by(*ordering) if ordering else rows

    def annotated(self, request: HttpRequest, rows: Any) -> QuerySet:
        """What this person sees of ``rows``, with all that columns, filters and the order of the list ask for."""
        return rows

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Who may only look is shown what the row says: Django would print a secret, and empty what no column holds."""
        fieldsets = super().get_fieldsets(request, obj)
        if obj is None or self.has_change_permission(request, obj):
            return fieldsets
        told = [(title, {**options, "fields": self._told(options["fields"])}) for title, options in fieldsets]
        return [(title, options) for title, options in told if options["fields"]]

    def _told(self, names: Any) -> list[Any]:
        """Of the fields of a form those that are columns, no secret, or a method of this admin."""
        columns = {f.name for f in self.opts.get_fields() if not isinstance(f, EncryptedTextField)}
        return [name for name in flatten(names) if name in columns or hasattr(self, name)]

    def get_list_display(self, request: HttpRequest) -> Sequence[Any]:
        return extras.with_columns(self.opts.label_lower, super().get_list_display(request))

    def get_list_filter(self, request: HttpRequest) -> Sequence[Any]:
        return (*super().get_list_filter(request), *extras.filters(self.opts.label_lower))

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        if request.method == "POST":
            self.refuse_foreign_action(request)
        return super().changelist_view(request, extra_context)

    @cached_property
    def remove_verb(self) -> Verb:
        return Verb(
            name="delete_selected",
            label=_("Delete"),
            icon="delete",
            permission=f"{self.opts.app_label}.delete_{self.opts.model_name}",
            done=lambda rows: gettext("Deleted: %(names)s.") % {"names": names_of(rows)},
            run=lambda row, by: type(self).remove(row, by=by),
            effect=self.removed_effect,
            word=typed_name,
            danger=True,
            away=True,
            in_menu=True,
        )

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        """By the verb, after its name was typed: Django's own would pass by both."""
        row = self.get_object(request, object_id)
        if not self.has_delete_permission(request, row):
            raise PermissionDenied
        if row is None:
            return self._get_obj_does_not_exist_redirect(request, self.opts, object_id)
        unanswered = ask_first(self, request, self.remove_verb, [row], back="../change/")
        if unanswered:
            return unanswered
        done = do(request, self.remove_verb, [row])
        gone = done and not self.get_queryset(request).filter(pk=row.pk).exists()
        return HttpResponseRedirect(list_url(self) if gone else "../change/")

    # The timeline is the one record of what was done; Django's own log stays empty.

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any: ...
    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any: ...
    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any: ...

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        if not self.has_view_permission(request):
            raise PermissionDenied
        row = self.get_object(request, object_id)
        if row is None:
            raise Http404
        about = f"subject_kind__exact={self.opts.model_name}&subject_id__exact={row.pk}"
        return HttpResponseRedirect(f"{reverse('admin:infini_event_changelist')}?{about}")


class PagedAdmin(BaseAdmin):
    """With an object's page at ``<id>/``, in tabs where it has ``page_tabs``; Django's form is at ``<id>/change/``."""

    page_tabs: Sequence[Tab] = ()

    def get_urls(self) -> list[URLPattern]:
        page = self.admin_site.admin_view(self.page_view)
        name = f"{self.opts.app_label}_{self.opts.model_name}_page"
        return [path("<int:pk>/", page, name=name), *self.verb_urls(), *super().get_urls()]

    def change_view(self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None) -> Any:
        """Who may not change it is shown its page, which says more than a form without boxes."""
        row = self.get_object(request, object_id) if request.method in ("GET", "HEAD") else None
        if row and self.has_view_permission(request, row) and not self.has_change_permission(request, row):
            return HttpResponseRedirect(self.page_url(row))
        return super().change_view(request, object_id, form_url, extra_context)

    def page_url(self, row: Model) -> str:
        return url_of(f"admin:{self.opts.app_label}_{self.opts.model_name}_page", row.pk)

    def page_view(self, request: HttpRequest, pk: int) -> HttpResponse:
        row = self.page_queryset(request).filter(pk=pk).first()
        if row is None:
            raise Http404
        if not self.has_view_permission(request, row):
            raise PermissionDenied
        buttons = self.buttons(request, row)
        page_tabs = tabs.tabs_of(self.opts.label_lower, self.page_tabs)
        open_tab = tabs.opened(page_tabs, request) if page_tabs else None
        context = {
            **self.admin_site.each_context(request),
            "title": str(row),
            "opts": self.opts,
            "original": row,
            "row": row,
            "buttons": buttons,
            "has_menu": any(button["in_menu"] for button in buttons),
            "edit_url": self._edit_url(request, row),
            "tab_links": tabs.links(page_tabs, request, row) if page_tabs else [],
            "open_tab": open_tab,
            "live_seconds": 5,
            "frame": "pages/live.html" if request.headers.get("X-Live") else "admin/base_site.html",
            **self.page_context(request, row),
            **(open_tab.make(request, row) if open_tab else {}),
        }
        return TemplateResponse(request, self.page_template or "pages/object.html", context)

    def page_queryset(self, request: HttpRequest) -> QuerySet:
        return self.described(request)

    def page_context(self, request: HttpRequest, row: Any) -> dict[str, Any]:
        """What its head shows, whatever tab is open."""
        return {}

    def _edit_url(self, request: HttpRequest, row: Model) -> str | None:
        if not self.has_change_permission(request, row):
            return None
        return url_of(f"admin:{self.opts.app_label}_{self.opts.model_name}_change", row.pk)

    def response_post_save_add(self, request: HttpRequest, obj: Model) -> HttpResponse:
        return HttpResponseRedirect(self.page_url(obj))

    response_post_save_change = response_post_save_add


class RecordAdmin(BaseAdmin):
    """For rows people edit: created, changed and removed by ``infini.records``, with their version."""

    form = BaseForm

    def all_verbs(self) -> Sequence[Verb]:
        return [*super().all_verbs(), self.remove_verb]

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form = super().get_form(request, obj, change=change, **kwargs)
        return type(form.__name__, (form,), {"request": request, "__module__": form.__module__})

    def formfield_for_dbfield(self, db_field: models.Field, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, EncryptedTextField):
            lines = 6 if db_field.name == "private_key" else 1
            return SecretField(label=capfirst(db_field.verbose_name), help_text=db_field.help_text, lines=lines)
        if isinstance(db_field, models.JSONField):
            kwargs["widget"] = MonoTextarea()
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> Any:
        """What a verb refuses while saving comes back as errors of the form, with the input kept."""
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except InfiniError as error:
            if isinstance(error, StaleVersion):
                error.message += " " + gettext("Your input is kept below; copy what you need, then open the page anew.")
            request.refusal = error  # type: ignore[attr-defined]
            return super().changeform_view(request, object_id, form_url, extra_context)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Only what the editor changed is written: columns others observe meanwhile stay as they are."""
        by: Any = request.user
        names = {field.name for field in obj._meta.many_to_many}
        many = {name: form.cleaned_data[name] for name in names & set(form.cleaned_data)}
        if not change:
            records.create(obj, by=by, many=many)
            return
        columns = {field.name for field in obj._meta.concrete_fields} & self.changed_columns(form)
        records.change(obj, columns, by=by, version=form.cleaned_data.get("seen_version"), many=many)

    def changed_columns(self, form: Any) -> set[str]:
        return set(form.changed_data)

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """Many-to-many is written by the verb; there are no inlines."""
