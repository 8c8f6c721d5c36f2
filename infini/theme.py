"""The admin's theme: the only module that imports unfold, so that it can be left."""

from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import ChoicesDropdownFilter, DropdownFilter
from unfold.contrib.filters.admin import RelatedDropdownFilter as WholeRowsDropdownFilter
from unfold.contrib.filters.forms import DropdownForm
from unfold.decorators import display
from unfold.forms import AdminPasswordChangeForm, AuthenticationForm, UserChangeForm, UserCreationForm
from unfold.templatetags.unfold_list import result_headers
from unfold.views import ChangeList
from unfold.widgets import (
    CHECKBOX_CLASSES,
    INPUT_CLASSES,
    TEXTAREA_CLASSES,
    UnfoldAdminFileFieldWidget,
    UnfoldAdminIntegerFieldWidget,
    UnfoldAdminSelect2MultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
    UnfoldBooleanSwitchWidget,
)

__all__ = [
    "AdminPasswordChangeForm",
    "AuthenticationForm",
    "CHECKBOX_CLASSES",
    "ChangeList",
    "ChoicesDropdownFilter",
    "DropdownFilter",
    "DropdownForm",
    "INPUT_CLASSES",
    "ModelAdmin",
    "TEXTAREA_CLASSES",
    "UnfoldAdminFileFieldWidget",
    "UnfoldAdminIntegerFieldWidget",
    "UnfoldAdminSelect2MultipleWidget",
    "UnfoldAdminSelectWidget",
    "UnfoldAdminTextInputWidget",
    "UnfoldAdminTextareaWidget",
    "UnfoldBooleanSwitchWidget",
    "UserChangeForm",
    "UserCreationForm",
    "WholeRowsDropdownFilter",
    "display",
    "result_headers",
]
