"""Where a request may go. Instances' addresses are the site's own; an endpoint's was typed in and is checked.

A name is resolved, every number it stands for must be allowed, and the connection goes to a number that was checked:
a name that says something else a moment later gains nothing.
"""

import asyncio
import ipaddress
import socket
import time
from functools import lru_cache
from urllib.parse import urlsplit

from django.utils.translation import gettext_noop

from chat.refusals import Refusal, bad_gateway
from chat.wire import Address, taken_apart
from deployments.upstreams import Upstream
from infini.errors import Invalid

RESOLVE_SECONDS = 5.0
# Checked numbers are used again for so long; then the name is asked anew.
REMEMBERED_SECONDS = 30.0

# Clouds tell a machine's own credentials there; link-local addresses are refused as a whole besides.
_METADATA = [
    ipaddress.ip_network(text)
    for text in ("100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", "fd00:ec2::/32", "fd20:ce::/32")
]
_NOT_ALLOWED = gettext_noop(
    "%(host)s stands for %(number)s, where no model server may be: link-local, metadata and multicast are refused."
)

_resolved: dict[tuple[str, int], tuple[float, str]] = {}


def refused(number: str) -> bool:
    """Whether no request may go to this IP address."""
    address = ipaddress.ip_address(number.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inner and refused(str(inner)):
            return True
        if address in ipaddress.ip_network("64:ff9b::/96") and refused(
            str(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        ):
            return True
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return True
    if address in ipaddress.ip_network("240.0.0.0/4" if address.version == 4 else "ff00::/8"):
        return True
    return any(address.version == network.version and address in network for network in _METADATA)


def checked_base_url(text: str) -> str:
    """An endpoint's address without its last slash; raises Invalid when it is none, or leads where it must not.

    A name that cannot be resolved now is taken: each request resolves and checks it again.
    """
    url = text.strip().rstrip("/")
    try:
        host, port, _tls, _path = taken_apart(url)
        parts = urlsplit(url)
        plain = not (parts.username or parts.password or parts.query or parts.fragment) and url.isascii()
    except ValueError:
        plain = False
    if not plain or any(mark in url for mark in " \r\n\t\\\"'<>"):
        what = gettext_noop("Write it as https://host[:port]/path, without user, query or fragment.")
        told = gettext_noop("This is no base address. %(what)s") % {"what": what}
        raise Invalid(told, fields={"base_url": [what]})
    for number in _numbers(host, port):
        if refused(number):
            told = _NOT_ALLOWED % {"host": host, "number": number}
            raise Invalid(told, fields={"base_url": [told]})
    return url


async def checked_address(upstream: Upstream) -> Address:
    """Where to connect to reach ``upstream``; raises Refusal for an address that leads where it must not."""
    address = _plain(upstream.base_url)
    if not upstream.guarded:
        return address
    key = (address.host, address.port)
    until, number = _resolved.get(key, (0.0, ""))
    if until < time.monotonic():
        number = await _resolve(*key)
        if len(_resolved) > 1000:
            _resolved.clear()
        _resolved[key] = (time.monotonic() + REMEMBERED_SECONDS, number)
    return Address(number, address.port, address.name, address.tls)


async def _resolve(host: str, port: int) -> str:
    try:
        async with asyncio.timeout(RESOLVE_SECONDS):
            numbers = await asyncio.to_thread(_numbers, host, port)
    except TimeoutError:
        numbers = []
    if not numbers:
        told = gettext_noop("The name %(host)s cannot be resolved.") % {"host": host}
        raise bad_gateway(told, "upstream_unreachable", elsewhere=True)
    for number in numbers:
        if refused(number):
            raise Refusal(502, _NOT_ALLOWED % {"host": host, "number": number}, "address_refused")
    return numbers[0]


def _numbers(host: str, port: int) -> list[str]:
    """What a name stands for; empty when it cannot be resolved. ``127.1`` is read as the system reads it."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [str(entry[4][0]) for entry in found]


@lru_cache(maxsize=4096)
def _plain(base_url: str) -> Address:
    host, port, tls, _path = taken_apart(base_url)
    return Address(host, port, host, tls)
