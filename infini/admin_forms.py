"""The form behind every page on which a row is edited."""

from collections.abc import Mapping
from typing import Any

from django import forms
from django.db.models import Model, Q
from django.http import HttpRequest
from django.utils.translation import gettext

from infini import visibility
from infini.errors import InfiniError
from infini.said import said


def offer_visible(fields: Mapping[str, forms.Field], user: Any, row: Model | None = None) -> None:
    """Have fields that offer rows offer those alone which ``user`` may see, and what ``row`` has already: saving the
    form is not to take it away.
    """
    if visibility.limits_of(user) is None:
        return
    for name, field in fields.items():
        if isinstance(field, forms.ModelChoiceField) and field.queryset is not None:
            offered = Q(pk__in=visibility.visible(field.queryset.order_by(), user).values("pk"))
            stored = getattr(row, f"{name}_id", None)
            field.queryset = field.queryset.filter(offered | Q(pk=stored) if stored else offered)


class BaseForm(forms.ModelForm):
    """A form that carries the version its editor saw and shows what a verb refused."""

    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    request: HttpRequest | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["seen_version"].initial = getattr(self.instance, "version", None)
        if self.request is not None:
            offer_visible(self.fields, self.request.user, self.instance)

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        self._refuse_taken_name()
        refusal = getattr(self.request, "refusal", None)
        if refusal is not None:
            self.show(refusal)
        return cleaned

    def show(self, error: InfiniError) -> None:
        """Put a verb's refusal where its field is; what belongs to no field of ours stands above."""
        placed = False
        for name, texts in error.fields.items():
            target = name if name in self.fields else name.removesuffix("_id")
            if target in self.fields:
                self.add_error(target, [said(text) for text in texts])
                placed = True
        if not placed:
            self.add_error(None, said(error.message))

    def _refuse_taken_name(self) -> None:
        """Said at the field, before the database's constraint says it less kindly."""
        name = self.cleaned_data.get("name")
        model = self._meta.model
        folded = any(c.name.endswith("_name_unique") for c in model._meta.constraints)
        if not name or not folded:
            return
        clash = model._default_manager.filter(name__iexact=name)
        if clash.exclude(pk=self.instance.pk).exists():
            self.add_error(
                "name", gettext("A %(kind)s with this name exists already.") % {"kind": model._meta.verbose_name}
            )
