"""Which addresses are public."""

import ipaddress

import pytest

from apps.webhooks import addresses
from apps.webhooks.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "10.1.2.3",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.255.255.255",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.1",
        "192.0.0.8",
        "192.0.0.170",
        "192.0.0.171",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.19.255.255",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::2",
        "::127.0.0.1",
        "::8.8.8.8",
        "::ffff:0:127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:0:0:1::808:808",
        "64:ff9b:1::1",
        "64:ff9b:1:ffff::808:808",
        "64:ff9b:2::1",
        "100::1",
        "100:0:0:1::1",
        "100:0:0:2::1",
        "200::1",
        "1fff::1",
        "2001::1",
        "2001:0:7f00:1::1",
        "2001:2::1",
        "2001:5::1",
        "2001:10::1",
        "2001:1ff:ffff::1",
        "2001:db8::1",
        "2001:db8:ffff::1",
        "2002:7f00:1::",
        "2002:a00:1::",
        "2002:808:808::",
        "3fff::1",
        "3fff:fff:ffff::1",
        "4000::1",
        "5f00::1",
        "5fff::1",
        "8000::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe00::1",
        "fe80::1",
        "fe80::1%eth0",
        "febf::1",
        "fec0::1",
        "feff::1",
        "ff02::1",
        "ff0e::1",
        "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ],
)
def test_is_public_rejects(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "93.184.216.34",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.31.196.1",
        "192.52.193.1",
        "192.175.48.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2000::1",
        "2001:20::1",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "2606:4700::1111",
        "2620:4f:8000::1",
        "2a00:1450:4001::1",
        "3ffe:ffff::1",
        "3fff:1000::1",
    ],
)
def test_is_public_accepts(address: str) -> None:
    assert is_public(address)


def test_is_public_rejects_private_blocks_of_standard_library() -> None:
    """A newer Python may know of blocks that the tables lack."""
    for number in range(0, 1 << 16, 13):
        for address in (f"{number >> 8}.{number & 255}.7.7", f"{number:x}::7:7"):
            ip = ipaddress.ip_address(address)
            assert (ip.is_global and not ip.is_multicast) or not is_public(address), address


def test_is_public_tables_cover_every_address() -> None:
    for table in addresses._TABLES.values():
        assert table[-1][:2] == (0, 0)
