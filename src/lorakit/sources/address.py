"""Which addresses may be connected to, decided on the very address that the socket then uses.

A name is resolved once; each address is looked up in a table of what is public, and only then
connected to. So neither a redirect nor a name whose address changes leads into this machine or its
network: what is not known to be public needs the caller's word. See the registries of special
addresses of IANA (RFC 6890) for the tables.
"""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Literal

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Reach = Literal["public", "loopback", "private", "never"]
MAX_ADDRESSES = 16  # of a name, that are tried

_V4 = [ipaddress.IPv4Network(text) for text in (
    "10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16",
    "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24",
    "203.0.113.0/24",
)]  # fmt: skip
_V4_NEVER = [ipaddress.IPv4Network(text) for text in ("0.0.0.0/8", "224.0.0.0/3")]
_V6_PUBLIC = ipaddress.IPv6Network("2000::/3")  # all other space is private or of no use
_V6_NOT = [ipaddress.IPv6Network(text) for text in (
    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",
)]  # fmt: skip
_V6_NEVER = [ipaddress.IPv6Network(text) for text in ("::/128", "ff00::/8")]
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # an IPv4 address, reached through a translator


class AddressError(OSError):
    """A host whose addresses are none that may be connected to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """Which addresses besides public ones. `public=False`: this machine's alone."""

    public: bool = True
    loopback: bool = False
    private: bool = False

    def fault(self, address: Address) -> str:
        """What speaks against an address, or an empty string."""
        found = reach(address)
        if found == "never":
            return f"{address} is the address of no single machine"
        if found == "public":
            return "" if self.public else f"{address} is not this machine"
        if (found == "loopback" and self.loopback) or self.private:
            return ""
        kind = "of this machine" if found == "loopback" else "of a private network"
        return f"{address} is an address {kind}"


def reach(address: Address) -> Reach:
    """Where an address leads; what is not known to be public is "private"."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return reach(inner)
        if any(address in network for network in _V6_NEVER):
            return "never"
        if address.is_loopback:
            return "loopback"
        open_ = address in _V6_PUBLIC and not any(address in network for network in _V6_NOT)
        return "public" if open_ else "private"
    if any(address in network for network in _V4_NEVER):
        return "never"
    if address.is_loopback:
        return "loopback"
    return "private" if any(address in network for network in _V4) else "public"


def connect(host: str, port: int, allowed: Allowed, timeout: float) -> socket.socket:
    """A connection to the first address of a host that is allowed and answers.

    Raises AddressError where none is allowed, and OSError.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[:MAX_ADDRESSES]
    faults: list[str] = []
    failed: OSError | None = None
    for family, kind, protocol, _, place in found:
        if fault := allowed.fault(ipaddress.ip_address(place[0])):
            faults.append(fault)
            continue
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(timeout)
            sock.connect(place)
        except OSError as error:
            sock.close()
            failed = error
        else:
            return sock
    if failed is not None:
        raise failed
    raise AddressError(faults[0] if faults else f"{host} has no address")


def fault_of_text(host: str, allowed: Allowed) -> str:
    """What speaks against a host by its text alone, where a proxy resolves it; or an empty string.

    An address in any spelling that a resolver takes (127.1, 0x7f000001), and names of this machine.
    """
    bare = host.rstrip(".").lower()
    if bare == "localhost" or bare.endswith(".localhost"):
        return allowed.fault(ipaddress.IPv4Address("127.0.0.1"))
    try:
        return allowed.fault(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return allowed.fault(ipaddress.IPv4Address(socket.inet_aton(bare)))
    except (OSError, ValueError):
        return ""
