"""How people like their lists: filters they keep as tabs, for themselves or for all who see the list, and the columns
they do without. A list is named by its model's label, ``inventory.server``.
"""

from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode

from django.db import IntegrityError, transaction
from django.db.models import Q, QuerySet
from django.utils.translation import gettext as _

from infini import events
from infini.errors import Conflict, Forbidden, Invalid, NotFound
from infini.models import SavedList, User
from infini.visibility import visible

MOST = 20  # of one's own on one list
NAME_MOST, QUERY_MOST = 40, 1000  # characters
CHANGE_ANY = "infini.change_savedlist"  # what others share
# Of an address what is no filter: the page one is on, and how Django tells of an error.
_NO_FILTERS = {"p", "all", "e", "_popup", "_to_field"}


def filters_of(query: str) -> str:
    """``query`` without what is no filter, always written the same way, so that equal ones are equal."""
    return urlencode(sorted((name, value) for name, value in parse_qsl(query) if name not in _NO_FILTERS))


def lists_of(user: User, page: str) -> list[SavedList]:
    """His own, then what others share with him. One query; to who is limited to environments nobody's are shown."""
    found = visible_to(user).filter(page=page).select_related("user").order_by("name", "pk")
    return sorted(found, key=lambda saved: saved.user_id != user.pk)


def visible_to(user: User) -> QuerySet[SavedList]:
    shared = visible(SavedList.objects.filter(shared=True).order_by(), user).values("pk")
    return SavedList.objects.filter(Q(user=user) | Q(pk__in=shared))


def may_change(saved: SavedList, user: User) -> bool:
    return saved.user_id == user.pk or (saved.shared and user.has_perm(CHANGE_ANY))


def save_list(*, by: User, page: str, name: str, query: str, shared: bool = False) -> SavedList:
    """Keep ``query``, as an address has it, under ``name``; raises Invalid, Conflict when he has one of this name."""
    query = filters_of(query)
    if not query:
        raise Invalid(_("Filter, search or sort the list first; then keep it under a name."))
    if len(query) > QUERY_MOST:
        raise Invalid(_("These filters are too long to be kept."))
    if by.saved_lists.filter(page=page).count() >= MOST:
        raise Invalid(_("You keep %(n)d filters of this list already; remove one first.") % {"n": MOST})
    saved = SavedList(user=by, page=page, name=_checked_name(name), query=query, shared=shared)
    with transaction.atomic():
        _write(saved)
        if shared:
            events.record("savedlist.created", saved, by=by, data={"query": ["", query]})
    return saved


def change_list(saved: SavedList, *, by: User, name: str, shared: bool) -> None:
    """Rename it, share it or keep it to its owner; raises Forbidden, Invalid, Conflict.

    The timeline tells of what others see alone.
    """
    _refuse_strangers(saved, by)
    before = SavedList.objects.filter(pk=saved.pk).first()
    if before is None:
        raise NotFound(_("This %(kind)s no longer exists.") % {"kind": saved._meta.verbose_name})
    saved.name, saved.shared = _checked_name(name), shared
    changes = events.difference(before, saved, {"name", "shared"})
    if changes:
        with transaction.atomic():
            _write(saved)
            if before.shared or shared:
                events.record("savedlist.changed", saved, by=by, data=changes)


def remove_list(saved: SavedList, *, by: User) -> None:
    """Raises Forbidden."""
    _refuse_strangers(saved, by)
    with transaction.atomic():
        if saved.shared:
            events.record("savedlist.deleted", saved, by=by)
        saved.delete()


def hide_columns(user: User, page: str, hidden: Iterable[str]) -> None:
    """The columns of ``page`` that ``user`` does without; none: all are shown."""
    with transaction.atomic():
        now = User.objects.select_for_update().only("hidden_columns").get(pk=user.pk).hidden_columns
        user.hidden_columns = {**now, page: sorted(hidden)} if hidden else {p: c for p, c in now.items() if p != page}
        User.objects.filter(pk=user.pk).update(hidden_columns=user.hidden_columns)


def _refuse_strangers(saved: SavedList, by: User) -> None:
    if not may_change(saved, by):
        raise Forbidden(_("%(name)s is somebody else's; an administrator can change it.") % {"name": saved})


def _checked_name(name: str) -> str:
    name = " ".join(name.split())
    if not 0 < len(name) <= NAME_MOST:
        raise Invalid(_("A saved filter has a name of 1 to %(n)d characters.") % {"n": NAME_MOST})
    return name


def _write(saved: SavedList) -> None:
    try:
        with transaction.atomic():
            saved.save()
    except IntegrityError:
        raise Conflict(_("You have a filter called %(name)s here already.") % {"name": saved.name}) from None
