"""What happens to tasks and runs, in words."""

from django.utils.translation import gettext_lazy as _

WORDS = {
    "task.executed": _("was run by hand"),
    "run.begun": _("was begun"),
    "run.retried": _("was tried again where it failed"),
    "run.cancelled": _("was cancelled"),
}
