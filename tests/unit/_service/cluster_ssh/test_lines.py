# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines of a site among lines of others, and hosts whose names, keys or addresses could be more than that."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._service.cluster_ssh.desired import (
    ClusterHost,
    check_key,
    host_of,
    parse_hosts,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.cluster_ssh.lines import (
    MARK,
    authorized_lines,
    known_lines,
    own_lines,
    replace_lines,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.cluster_ssh.this_host import find_sources
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

#: A key that begins with its own type.
BLOB = bytes([0, 0, 0, 11]) + b"ssh-ed25519"


def key(text: str = "a") -> str:
    return f"ssh-ed25519 {base64.b64encode(BLOB + text.encode()).decode()}"


def options(**changed: object) -> dict[str, Any]:
    host = {"name": "kvm1", "names": ["kvm1"], "keys": [key()], "host_keys": [key("host")], "addresses": ["192.0.2.1"]}
    return {**host, **changed}


def test_a_host_has_its_lines() -> None:
    host = parse_hosts([options(names=["kvm1", "[2001:db8::1]:2222", "[kvm1]:22"], addresses=["192.0.2.1", "::/64"])])[
        0
    ]
    assert authorized_lines(host, []) == {key(): f'from="192.0.2.1,::/64",restrict {key()} {MARK}kvm1'}
    assert known_lines(host) == [f"kvm1,[2001:db8::1]:2222 {key('host')} {MARK}kvm1"]


def test_loopback_addresses_are_those_of_the_own_host() -> None:
    host = parse_hosts([options(addresses=["127.0.0.1", "192.0.2.1"])])[0]
    assert 'from="192.0.2.1"' in authorized_lines(host, [])[key()]
    assert 'from="127.0.0.1,192.0.2.1"' in authorized_lines(host, [key()])[key()]
    alone = parse_hosts([options(addresses=["::1"])])[0]
    assert authorized_lines(alone, []) == {}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", "kvm 1"),
        ("name", "kvm1\nssh-rsa"),
        ("names", "*"),
        ("names", "kvm1,kvm2"),
        ("names", "!kvm1"),
        ("names", "@cert-authority"),
        ("names", "|1|a|b"),
        ("names", "[kvm?]:22"),
        ("names", "[kvm1]:x"),
        ("names", "#kvm1"),
        ("keys", "ssh-ed25519"),
        ("keys", f"{key()}\n{key()}"),
        ("keys", f'command="id" {key()}'),
        ("keys", key().replace("ed25519", "rsa", 1)),
        ("keys", "ssh-ed25519 AAA"),
        ("host_keys", "@revoked * ssh-rsa AAAA"),
        ("addresses", "*"),
        ("addresses", '192.0.2.1",command="id'),
        ("addresses", "192.0.2.1/24"),
    ],
)
def test_a_value_is_never_more_than_one_value(option: str, value: str) -> None:
    given_value = value if option == "name" else [value]
    with refused(InvalidInput, option=f"hosts.{option}"):
        parse_hosts([options(**{option: given_value})])


def test_each_host_is_there_once() -> None:
    with refused(
        InvalidInput, says="hosts.name: 'kvm1' is not accepted: each host is expected once.", option="hosts.name"
    ):
        parse_hosts([options(), options()])


def test_a_host_needs_a_name() -> None:
    with refused(
        InvalidInput, says="hosts.names is missing: a name by which other hosts reach 'kvm1' is expected.", value=None
    ):
        parse_hosts([options(names=[])])


def test_a_key_loses_its_comment() -> None:
    assert check_key("use_key", f" {key()} somebody@somewhere \n") == key()
    with refused(
        InvalidInput, says="use_key: 'x' is not accepted: a public key such as 'ssh-ed25519 AAAA...' is expected."
    ):
        check_key("use_key", "x")


def test_addresses_are_one_by_one() -> None:
    with refused(
        InvalidInput,
        says="hosts.addresses: 'kvm1' is not accepted: an IP address or a network such as '192.0.2.0/24' is expected.",
    ):
        parse_hosts([options(addresses=["kvm1"])])


#: Lines of others, some of which look like lines of the site.
FOREIGN = (
    "ssh-rsa AAAA somebody",
    "",
    f"# {key()} {MARK}kvm1",
    f"{MARK}kvm1",
    "  ",
    "x" * 5000,
    "a\rb",
    "\udcff é",
    "\x0b",
)
LINES = {host: f"{host} {key(host)} {MARK}{host}" for host in ("kvm1", "kvm2", "kvm3")}


@given(
    st.lists(st.sampled_from([*FOREIGN, *LINES.values()])),
    st.booleans(),
    st.dictionaries(st.sampled_from([*LINES]), st.booleans()),
)
def test_lines_of_others_stay(lines: list[str], ends: bool, hosts: dict[str, bool]) -> None:
    text = "\n".join([*lines, *[""] * (ends and bool(lines))])
    desired = {host: [LINES[host]] if is_known else None for host, is_known in hosts.items()}
    after = replace_lines(text, desired)
    assert replace_lines(after, desired) == after
    foreign = [line for line in text.split("\n") if line in FOREIGN]
    assert [line for line in after.split("\n") if line in FOREIGN and line] == [line for line in foreign if line]
    kept = {line for host, line in LINES.items() if hosts.get(host) or (host in hosts and line in lines)}
    assert set(own_lines(after)) == kept
    assert [host for host, is_known in hosts.items() if is_known and own_lines(after).count(LINES[host]) != 1] == []


def test_a_file_without_a_line_end_gets_one() -> None:
    assert replace_lines("foreign", {"kvm1": ["a b " + MARK + "kvm1"]}) == f"foreign\na b {MARK}kvm1\n"
    assert replace_lines("", {"kvm1": ["x"]}) == "x\n"
    assert replace_lines("foreign", {}) == "foreign"


def test_a_host_without_keys_says_nothing() -> None:
    host = parse_hosts([{"name": "kvm1", "names": [], "keys": None, "host_keys": [], "addresses": []}])[0]
    assert host == ClusterHost("kvm1", (), None, (), ())


def test_sources_are_own_addresses() -> None:
    assert find_sources(["127.0.0.1", "::1", "does-not-exist.invalid", "a" * 64]) in (
        ["127.0.0.1"],
        ["127.0.0.1", "::1"],
    )
    assert find_sources([]) == []


def test_a_peer_is_a_host() -> None:
    assert [host_of(name) for name in ("kvm1", "[kvm1]:2222", "2001:db8::1")] == ["kvm1", "kvm1", "2001:db8::1"]
    with refused(InvalidInput, option="peers", value="-oProxyCommand=id"):
        host_of("-oProxyCommand=id")
