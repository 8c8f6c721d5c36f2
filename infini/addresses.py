"""Where a request comes from: known to whoever writes the timeline, without being handed from verb to verb."""

from collections.abc import Iterable
from contextvars import ContextVar
from ipaddress import IPv6Address, ip_address
from typing import Any

from django.conf import settings

_current: ContextVar[str] = ContextVar("infini_address", default="")


def current_address() -> str:
    """The address the present request comes from; empty outside requests."""
    return _current.get()


def set_current_address(address: str) -> None:
    _current.set(address)


def address_of(*, peer: str, forwarded: str) -> str:
    """The caller's address: the connection's, or with a trusted proxy what that one says it is.

    A proxy appends what it saw to ``X-Forwarded-For``, so only the last entry is the proxy's own word.
    """
    told = forwarded.rpartition(",")[2].strip() if settings.TRUST_PROXY else ""
    return _checked(told) or _checked(peer)


def address_of_scope(scope: dict[str, Any]) -> str:
    """The caller's address of an ASGI connection."""
    headers: Iterable[tuple[bytes, bytes]] = scope.get("headers", ())
    forwarded = next((value for name, value in headers if name == b"x-forwarded-for"), b"")
    peer = scope.get("client") or ("",)
    return address_of(peer=str(peer[0]), forwarded=forwarded.decode("latin-1"))


def neighbourhood(address: str) -> str:
    """What counts as one caller: an IPv4 address, or the /64 that one IPv6 customer is given."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is None:
        return str(IPv6Address(int(parsed) >> 64 << 64))
    return address


def _checked(text: str) -> str:
    try:
        return str(ip_address(text.strip().removeprefix("[").removesuffix("]")))
    except ValueError:
        return ""
