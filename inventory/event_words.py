"""What happens in the inventory beside adding, changing and deleting, in words."""

from django.utils.translation import gettext_lazy as _

WORDS = {
    "server.host_key_confirmed": _("has its host key confirmed"),
    "server.host_key_repinned": _("has another host key pinned"),
    "brand.cards_loaded": _("has new published cards"),
}
