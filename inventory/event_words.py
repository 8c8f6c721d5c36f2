"""What happens in the inventory beside adding, changing and deleting, in words."""

from django.utils.translation import gettext_lazy as _

WORDS = {
    "brand.cards_loaded": _("has new published cards"),
}
