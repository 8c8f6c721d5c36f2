"""What happens in the inventory beside adding, changing and deleting, in words."""

from django.utils.translation import gettext_lazy as _

WORDS = {
    "server.host_key_confirmed": _("has its host key confirmed"),
    "server.host_key_repinned": _("has another host key pinned"),
    "terminal.opened": _("has a terminal open"),
    "terminal.ended": _("has a terminal ended"),
    "terminal.refused": _("let no terminal open"),
    "terminal.recording_removed": _("has a recording of a terminal deleted"),
    "file.downloaded": _("had a file downloaded"),
    "file.uploaded": _("had a file uploaded"),
    "brand.cards_loaded": _("has new published cards"),
}
