# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput


def test_a_long_value_is_cut_short() -> None:
    message = str(InvalidInput("name", "x" * 10**6, "less is expected"))
    assert message == f"name: '{'x' * 199}... (1000002 characters) is not accepted: less is expected."
