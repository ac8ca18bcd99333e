"""Which IP addresses a webhook may be sent to. `transport` checks each address before and after connecting.

The tables hold every block of IANA's special-purpose address registries (IPv4 and IPv6, both as updated on
2025-10-09) and whether the registry calls it globally reachable. The standard library knows older registries.
"""

import ipaddress

_IPv4 = ipaddress.IPv4Address
_IPv6 = ipaddress.IPv6Address

# https://www.iana.org/assignments/iana-ipv4-special-registry
_IPV4_SPECIAL = {
    "0.0.0.0/8": False,  # "this network"
    "10.0.0.0/8": False,  # private use
    "100.64.0.0/10": False,  # shared address space
    "127.0.0.0/8": False,  # loopback
    "169.254.0.0/16": False,  # link-local
    "172.16.0.0/12": False,  # private use
    "192.0.0.0/24": False,  # IETF protocol assignments, with the exceptions below
    "192.0.0.9/32": True,  # Port Control Protocol anycast
    "192.0.0.10/32": True,  # TURN anycast
    "192.0.2.0/24": False,  # documentation
    "192.31.196.0/24": True,  # AS112
    "192.52.193.0/24": True,  # automatic multicast tunneling
    "192.88.99.0/24": False,  # deprecated 6to4 relay anycast
    "192.168.0.0/16": False,  # private use
    "192.175.48.0/24": True,  # AS112
    "198.18.0.0/15": False,  # benchmarking
    "198.51.100.0/24": False,  # documentation
    "203.0.113.0/24": False,  # documentation
    "240.0.0.0/4": False,  # reserved, with the limited broadcast address
    # Not in that registry: multicast, and the address of Azure's metadata service.
    "224.0.0.0/4": False,
    "168.63.129.16/32": False,
}
# https://www.iana.org/assignments/iana-ipv6-special-registry
_IPV6_SPECIAL = {
    # Addresses of global unicast are in 2000::/3; of the others, only NAT64's well-known prefix is reachable.
    "::/0": False,
    "2000::/3": True,
    "::1/128": False,  # loopback
    "::/128": False,  # unspecified
    "::ffff:0:0/96": True,  # IPv4-mapped: the IPv4 address decides
    "64:ff9b::/96": True,  # NAT64: the IPv4 address decides
    "64:ff9b:1::/48": False,  # NAT64 of the local network
    "100::/64": False,  # discard-only
    "100:0:0:1::/64": False,  # dummy prefix
    "2001::/23": False,  # IETF protocol assignments, with the exceptions below
    "2001::/32": False,  # Teredo
    "2001:1::1/128": True,  # Port Control Protocol anycast
    "2001:1::2/128": True,  # TURN anycast
    "2001:1::3/128": True,  # DNS-SD service registration anycast
    "2001:2::/48": False,  # benchmarking
    "2001:3::/32": True,  # automatic multicast tunneling
    "2001:4:112::/48": True,  # AS112
    "2001:10::/28": False,  # deprecated ORCHID
    "2001:20::/28": True,  # ORCHIDv2
    "2001:30::/28": True,  # drone remote identification
    "2001:db8::/32": False,  # documentation
    "2002::/16": False,  # 6to4, deprecated
    "2620:4f:8000::/48": True,  # AS112
    "3fff::/20": False,  # documentation
    "5f00::/16": False,  # segment routing identifiers
    "fc00::/7": False,  # unique local
    "fe80::/10": False,  # link-local
}


def _most_specific_first(table: dict[str, bool]) -> list[tuple[int, int, bool]]:
    networks = sorted(
        ((ipaddress.ip_network(block), reachable) for block, reachable in table.items()),
        key=lambda entry: -entry[0].prefixlen,
    )
    return [
        (int(network.network_address), int(network.netmask), reachable) for network, reachable in networks
    ]


_TABLES = {
    4: _most_specific_first({"0.0.0.0/0": True} | _IPV4_SPECIAL),
    6: _most_specific_first(_IPV6_SPECIAL),
}
_EMBEDDING = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))


def is_public(address: str) -> bool:
    """Return True if the address belongs to the public internet.

    An IPv4 address that is mapped into IPv6 or reached by NAT64 is checked as IPv4. Those embedded by 6to4,
    Teredo and the deprecated IPv4-compatible form are in blocks that are never reachable.

    Args:
        address: an IPv4 or IPv6 address, with or without a zone such as `%eth0`.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, _IPv6) and any(ip in network for network in _EMBEDDING):
        ip = _IPv4(int(ip) & 0xFFFF_FFFF)
    number = int(ip)
    return next(reachable for network, mask, reachable in _TABLES[ip.version] if number & mask == network)
