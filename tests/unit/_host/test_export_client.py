# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs.export_client import (
    canonical_name,
    check_client,
    client_key,
    covers,
    is_world,
)


@pytest.mark.parametrize(
    ("client", "written"),
    [
        ("hv1", "hv1"),
        ("HV1.example.org", "HV1.example.org"),
        ("ho_st-1", "ho_st-1"),
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.0/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("192.0.2.7/32", "192.0.2.7/32"),
        ("2001:db8::5", "2001:db8::5"),
        ("2001:DB8:0::/64", "2001:db8::/64"),
        ("*", "*"),
        ("*.example.org", "*.example.org"),
        ("build[0-9].example.org", "build[0-9].example.org"),
        ("hv?", "hv?"),
        ("@hosts", "@hosts"),
    ],
)
def test_clients(client: str, written: str) -> None:
    assert check_client("client", client) == written


@pytest.mark.parametrize(
    "client",
    [
        "",
        "a b",
        "a(rw)",
        "a\n/etc",
        "-rw",
        "a,b",
        'a"',
        "a\\040",
        "#a",
        "@",
        "@a b",
        "@-a",
        "gss/krb5",
        "[2001:db8::1]",
        "2001:db8::g",
        "10.0.0",
        "300.1.1.1",
        "192.0.2.7/24",
        "10.0.0.0/33",
        "10.0.0.0/255.0.255.0",
        "10.0.0.0/0.0.0.255",
        "10.0.0.*",
        "10.0.0.[0-9]",
        "hôst",
        "a." * 127,
        "host.",
        "::ffff:1.2.3.4/",
    ],
)
def test_bad_clients_are_refused(client: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_client("clients.client", client)
    assert (error.value.option, error.value.value) == ("clients.client", client)


@pytest.mark.parametrize(
    ("client", "accepted"),
    [
        ("192.0.2.7/24", "the network of that address is '192.0.2.0/24'"),
        ("10.0.0.*", "wildcards don't match addresses; a network such as '192.0.2.0/24' is expected"),
        (
            "a b",
            "a host name, an IP address, a network such as '192.0.2.0/24', a wildcard such as '*.example.org', a "
            "netgroup such as '@hosts' or '*' is expected",
        ),
    ],
)
def test_messages(client: str, accepted: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_client("client", client)
    assert error.value.accepted == accepted


@pytest.mark.parametrize(
    "notations",
    [
        ("192.0.2.0/24", "192.0.2.0/255.255.255.0", "192.0.2.9/24"),
        ("192.0.2.7", "192.0.2.7/32"),
        ("2001:db8::5", "2001:DB8:0:0::5", "2001:db8::5/128"),
        ("hv1.example.org", "HV1.Example.org"),
        ("*", ""),
    ],
)
def test_notations_of_the_same_client(notations: tuple[str, ...]) -> None:
    assert len(set(map(client_key, notations))) == 1


def test_others_differ() -> None:
    clients = ("*", "0.0.0.0/0", "hv1", "@hv1", "@HV1", "hv*", "192.0.2.0/25", "10.0.0.0/0.0.0.255")
    assert len(set(map(client_key, clients))) == len(clients)


def test_the_world_has_several_notations() -> None:
    assert [
        one for one in ("*", "0.0.0.0/0", "::/0", "*.*", "*.org", "10.0.0.0/8", "hv1", "@all") if is_world(one)
    ] == [
        "*",
        "0.0.0.0/0",
        "::/0",
        "*.*",
    ]


@pytest.mark.parametrize(
    ("client", "address", "expected"),
    [
        ("*", "192.0.2.7", True),
        ("192.0.2.0/24", "192.0.2.7", True),
        ("192.0.2.0/24", "192.0.3.7", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("2001:db8::/64", "2001:db8::7", True),
        ("0.0.0.0/0", "2001:db8::7", False),
        ("hv1", "192.0.2.7", False),
        ("@hosts", "192.0.2.7", False),
    ],
)
def test_addresses_of_a_client(client: str, address: str, expected: bool) -> None:
    assert covers(client, address) is expected


def test_only_names_have_a_canonical_name() -> None:
    assert canonical_name("localhost") == "localhost"
    assert [canonical_name(one) for one in ("127.0.0.1", "*", "@a", "127.0.0.0/8", "nosuchhost.invalid")] == [None] * 5
