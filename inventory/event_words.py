"""What happens in the inventory beside adding, changing and deleting, in words."""

from django.utils.translation import gettext_lazy as _

_AGENT = {
    "install_asked": _("is to have its agent installed"),
    "install_done": _("has its agent installed"),
    "install_failed": _("could not have its agent installed"),
    "upgrade_asked": _("is to have its agent upgraded"),
    "upgrade_done": _("has its agent upgraded"),
    "upgrade_failed": _("could not have its agent upgraded"),
    "remove_asked": _("is to have its agent removed"),
    "remove_done": _("has its agent removed"),
    "remove_failed": _("could not have its agent removed"),
}
_ANY_KIND = {
    "asked_again": _("has its agent's work tried again"),
    "begun": _("has its agent worked on"),
    "cancel_asked": _("is to have the work on its agent cancelled"),
    "cancelled": _("had the work on its agent cancelled"),
}

WORDS = {
    "server.reachable": _("answers a check again"),
    "server.unreachable": _("answers no check"),
    "server.host_key_confirmed": _("has its host key confirmed"),
    "server.host_key_seen": _("showed its host key, which a person has to confirm"),
    "server.host_key_changed": _("showed another host key than the one that is pinned"),
    "server.host_key_repinned": _("has another host key pinned"),
    **{f"server.agent_{what}": words for what, words in _AGENT.items()},
    **{
        f"server.agent_{kind}_{what}": words
        for kind in ("install", "upgrade", "remove")
        for what, words in _ANY_KIND.items()
    },
    "terminal.opened": _("has a terminal open"),
    "terminal.ended": _("has a terminal ended"),
    "terminal.refused": _("let no terminal open"),
    "terminal.recording_removed": _("has a recording of a terminal deleted"),
    "file.downloaded": _("had a file downloaded"),
    "file.uploaded": _("had a file uploaded"),
    "device.found": _("has a device that was not known"),
    "device.missing": _("has a device no more that it had"),
    "brand.cards_loaded": _("has new published cards"),
}
