# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput


def test_a_long_value_is_cut_short() -> None:
    message = str(InvalidInput("name", "x" * 10**6, "less is expected"))
    assert message == f"name: '{'x' * 199}... (1000002 characters) is not accepted: less is expected."


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http:/user:pa55@h/x", "'http:/...'"),
        (" ftp://user:pa55@h/x", "' ftp://...'"),
        ("user:pa55@h:/x", "'...'"),
        ("//user:pa55@h", "'...'"),
        ("http:/h/x?token=pa55", "'http:/...'"),
        (["http:/user:pa55@h/x"], "..."),
        ("/srv/data@2024", "'/srv/data@2024'"),
        ("https://h/x?...", "'https://h/x?...'"),
        ("ssh://root@h/x", "'ssh://root@h/x'"),
        ("qemu+ssh://root@h/system?keyfile=/k", "'qemu+ssh://root@h/system?keyfile=/k'"),
        ([{"start": "a@b"}], "[{'start': 'a@b'}]"),
    ],
)
def test_what_may_be_a_secret_is_not_shown(value: object, shown: str) -> None:
    assert (
        str(InvalidInput("path", value, "a path is expected")) == f"path: {shown} is not accepted: a path is expected."
    )
