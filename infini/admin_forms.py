"""The form behind every page on which a row is edited."""

from typing import Any

from django import forms
from django.http import HttpRequest
from django.utils.translation import gettext

from infini.errors import InfiniError
from infini.said import said


class BaseForm(forms.ModelForm):
    """A form that carries the version its editor saw and shows what a verb refused."""

    seen_version = forms.IntegerField(required=False, widget=forms.HiddenInput)
    request: HttpRequest | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["seen_version"].initial = getattr(self.instance, "version", None)

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
                self.add_error(target, texts)
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
