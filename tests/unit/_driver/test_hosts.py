# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import os

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._driver.transfer.hosts import is_this_host


@pytest.mark.parametrize(
    ("own", "host", "is_own"),
    [
        ("fe", "fe", True),
        ("fe", "fe.example.com", True),
        ("fe.example.com", "fe", True),
        ("fe.example.com", "fe.example.com", True),
        ("fe.example.com", "fe.example.org", False),
        ("fe", "fe2", False),
        ("fe", "localhost", True),
        ("fe", "127.0.0.1", True),
        ("fe", ".example.com", False),
    ],
)
def test_the_names_of_this_host(monkeypatch: pytest.MonkeyPatch, own: str, host: str, is_own: bool) -> None:
    """A host of the same name in another domain is another host."""
    found = os.uname()
    monkeypatch.setattr(os, "uname", lambda: os.uname_result((found[0], own, *found[2:])))
    assert is_this_host(host) == is_own
