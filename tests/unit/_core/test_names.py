# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._model.names import check_domain, check_host, check_name
from refusal import refused

UNPRINTABLE = ["", "a\nb", "a\x00", "\x1b[2J", "a\u202eb", "a\u2028b", "\udcff", " a", "a ", "x" * 129]


@pytest.mark.parametrize(
    "name", ["fs_data", "a b", "x" * 128, "Größe", "$(id)", "'; DROP TABLE image; --", "%s", "100a", "a/b"]
)
def test_names(name: str) -> None:
    assert check_name("name", name) == name


@pytest.mark.parametrize("name", [*UNPRINTABLE, "100", "²"])
def test_refused_names(name: str) -> None:
    with refused(
        InvalidInput,
        says=f"name: {name!r} is not accepted: 1 to 128 printable characters are expected, no blank at "
        "an end and not digits only.",
    ):
        check_name("name", name)


@pytest.mark.parametrize("name", ["web", "100", "a b"])
def test_domains(name: str) -> None:
    assert check_domain("domain", name) == name


@pytest.mark.parametrize("name", [*UNPRINTABLE, "a/b"])
def test_refused_domains(name: str) -> None:
    with refused(
        InvalidInput,
        says=f"domain: {name!r} is not accepted: 1 to 128 printable characters without '/' are "
        "expected, no blank at an end.",
    ):
        check_domain("domain", name)


@pytest.mark.parametrize("name", ["h1", "host-01.example.org", "192.0.2.1", "2001:db8::1", "web_1"])
def test_hosts(name: str) -> None:
    assert check_host("host", name) == name


@pytest.mark.parametrize("name", ["", "-oProxyCommand=id", "a b", "a;b", "user@host", "ä", "h\n", "x" * 254, "$(id)"])
def test_refused_hosts(name: str) -> None:
    with refused(InvalidInput, value=name, says="host: * is not accepted: a host name or an IP address is expected."):
        check_host("host", name)
