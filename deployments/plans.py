"""What a deployment would do on each server, before anybody asks for it: reckoned as the claims are, making none.

Between looking and deploying others may take what was free; the claims decide then.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.db.models import TextChoices
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from deployments.models import DeviceClaim, Instance, PortClaim, Service
from deployments.phases import Wanted
from inventory.device_processes import strangers_on
from inventory.models import Device, Server
from inventory.querysets import ServerStatus
from inventory.shown_devices import live_figures


class Way(TextChoices):
    """What happens on a server."""

    START = "start", gettext_lazy("starts there")
    BESIDE = "beside", gettext_lazy("starts beside the old one, which then ends")
    IN_PLACE = "in_place", gettext_lazy("the old one ends, then the new one starts")
    END = "end", gettext_lazy("ends there")
    NOTHING = "nothing", gettext_lazy("cannot be deployed there")


@dataclass(frozen=True)
class Wish:
    """What is to be deployed, as a form or a request tells it; ``port`` None: a free one where it needs one."""

    devices: int = 0
    port: int | None = None
    rolling: bool = False
    surge: bool = True
    service: Service | None = None


@dataclass(frozen=True)
class ServerPlan:
    """One server: whether it fits, and why not; ``note`` is what a person should know all the same."""

    server: Server
    way: Way
    reason: str
    note: str
    devices_free: int
    devices_present: int

    @property
    def fits(self) -> bool:
        return self.way != Way.NOTHING


def plan(servers: Iterable[Server], wish: Wish) -> list[ServerPlan]:
    """Expects servers ``with_status()``. A number of queries that does not depend on theirs."""
    chosen = list(servers)
    ids = [server.pk for server in chosen]
    rooms = _rooms(ids, wish.service)
    ports: dict[int, str] = {}
    if wish.port is not None:
        claims = PortClaim.objects.filter(server__in=ids, port=wish.port)
        ports = dict(claims.values_list("server_id", "instance__placement__service__name"))
    have = _ready_or_not(wish.service)
    plans = [_plan(server, wish, rooms[server.pk], ports.get(server.pk), have.get(server.pk)) for server in chosen]
    leaving = set(have) - set(ids)
    ends = Server.objects.in_bulk(leaving).values()
    return [*plans, *(ServerPlan(server, Way.END, "", "", 0, 0) for server in ends)]


@dataclass
class Room:
    """The slots of one server by vendor: ``free`` ones, and ``own``, which the service's instances there hold.

    ``strangers`` counts the free devices on which runs what was not started from here.
    """

    free: Counter[str]
    own: Counter[str]
    present: int = 0
    strangers: int = 0

    def most(self, *, with_own: bool) -> int:
        """How many slots of one vendor an instance could be given."""
        counted = self.free + self.own if with_own else self.free
        return max(counted.values(), default=0)


def _rooms(server_ids: list[int], service: Service | None) -> dict[int, Room]:
    taken: dict[int, set[int]] = defaultdict(set)
    own: dict[int, bool] = {}
    claims = DeviceClaim.objects.filter(device__server__in=server_ids)
    for device_id, slot, holder in claims.values_list("device_id", "slot", "instance__placement__service_id"):
        taken[device_id].add(slot)
        own[device_id] = own.get(device_id, False) or (service is not None and holder == service.pk)
    rooms = {pk: Room(Counter(), Counter()) for pk in server_ids}
    figures = {server.pk: live_figures(server) for server in Server.objects.filter(pk__in=server_ids).only("figures")}
    for device in Device.objects.filter(server__in=server_ids, present=True):
        room = rooms[device.server_id]
        room.present += 1
        if len(taken[device.pk]) < device.slots:
            room.free[device.vendor] += 1
            room.strangers += bool(strangers_on(figures[device.server_id].get(device.uuid, {})))
        elif own.get(device.pk):
            room.own[device.vendor] += 1
    return rooms


def _ready_or_not(service: Service | None) -> dict[int, bool]:
    """Servers where the service is to run now, and whether it is ready there."""
    if service is None:
        return {}
    rows = Instance.objects.filter(placement__service=service).exclude(wanted=Wanted.GONE)
    found: dict[int, bool] = {}
    for server_id, ready in rows.values_list("placement__server_id", "ready"):
        found[server_id] = found.get(server_id, False) or ready
    return found


def _plan(server: Server, wish: Wish, room: Room, port_of: str | None, ready: bool | None) -> ServerPlan:
    mine = wish.service is not None and port_of == wish.service.name
    reason = _why_not(server, wish, room, None if mine else port_of)
    free = sum(room.free.values())
    if reason:
        return ServerPlan(server, Way.NOTHING, reason, "", free, room.present)
    note = _note(server, wish, room)
    if server.status != ServerStatus.ONLINE:  # type: ignore[attr-defined]
        note = _("It does not answer now: what is asked of it then fails.")
    if ready is None:
        return ServerPlan(server, Way.START, "", note, free, room.present)
    beside = wish.rolling and wish.surge and ready and not mine and _room_for_two(wish, room)
    return ServerPlan(server, Way.BESIDE if beside else Way.IN_PLACE, "", note, free, room.present)


def _note(server: Server, wish: Wish, room: Room) -> str:
    if server.maintenance:
        return _("In maintenance: it is deployed there all the same.")
    if wish.devices and room.strangers:
        return _(
            "On %(n)d of its %(free)d free devices runs what was not started from here; the others are taken first."
        ) % {
            "n": room.strangers,
            "free": sum(room.free.values()),
        }
    return ""


def _room_for_two(wish: Wish, room: Room) -> bool:
    return room.most(with_own=False) >= wish.devices if wish.devices else not room.present


def _why_not(server: Server, wish: Wish, room: Room, port_of: str | None) -> str:
    if not server.agent_token:
        return _("It has no agent token.")
    if wish.devices and room.most(with_own=True) < wish.devices:
        if not room.present:
            none = (
                _("1 device is needed and none is known there.")
                if wish.devices == 1
                else _("%(n)d devices are needed and none is known there.")
            )
            return none % {"n": wish.devices}
        few = (
            _("1 device is needed and %(free)d of %(all)d are free.")
            if wish.devices == 1
            else _("%(n)d devices are needed and %(free)d of %(all)d are free.")
        )
        return few % {"n": wish.devices, "free": room.most(with_own=True), "all": room.present}
    if port_of:
        return _("Port %(port)d belongs to the service %(name)s.") % {"port": wish.port or 0, "name": port_of}
    return ""
