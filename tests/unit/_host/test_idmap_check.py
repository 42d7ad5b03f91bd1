# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import DependencyNotFound
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.idmap_check import (
    check_account,
    check_maps,
    check_tools,
    default_map,
    host_id,
    is_covered,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.subid import SubidRange
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap
from refusal import refused


@pytest.fixture
def etc(tmp_path: Path) -> str:
    (tmp_path / "subuid").write_text("other:1:5\nsvc:100000:1000\nsvc:101000:500\nsvc:300000:10\n")
    (tmp_path / "subgid").write_text("other:100000:65536\n")
    return str(tmp_path)


def test_the_default_is_the_whole_first_range(etc: str) -> None:
    assert default_map("svc", "uid", etc) == IdMap(0, 100000, 1000)


def test_the_message_has_the_line_to_add(etc: str) -> None:
    with refused(
        DependencyNotFound,
        says=f"The user 'svc' has no subordinate gids: add the line svc:100000:65536 to {etc}/subgid.",
    ):
        default_map("svc", "gid", etc)
    with refused(
        DependencyNotFound,
        says="uid_map: '0:101400:200' leads out of the subordinate uids of 'svc' (100000:1000, "
        f"101000:500, 300000:10): add the line svc:101400:200 to {etc}/subuid.",
    ):
        check_maps("svc", "uid", [IdMap(0, 101400, 200)], etc)
    Path(etc, "nsswitch.conf").write_text("subid: files\n")
    check_maps("svc", "uid", [IdMap(0, 100000, 1500), IdMap(5000, 300000, 10)], etc)


@pytest.mark.parametrize(
    ("start", "count", "answer"),
    [
        (100, 10, True),
        (100, 11, True),
        (109, 2, True),
        (100, 20, True),
        (100, 21, False),
        (99, 2, False),
        (130, 1, True),
        (118, 13, False),
        (110, 1, True),
    ],
)
def test_ranges_that_touch_are_one(start: int, count: int, answer: bool) -> None:
    ranges = [SubidRange("a", 110, 10), SubidRange("a", 100, 10), SubidRange("a", 130, 1)]
    assert is_covered(ranges, start, count) is answer


def test_ids_on_the_host() -> None:
    maps = (IdMap(0, 100000, 10), IdMap(1000, 200000, 1))
    assert [host_id(maps, one) for one in (0, 9, 10, 1000, 1001)] == [100000, 100009, None, 200000, None]
    assert host_id((), 7) == 7


def test_accounts_and_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    check_account("root")
    with refused(
        DependencyNotFound,
        says="service_user: this host has no account 'no-such-user'; the role granary.vmstore.hypervisor makes it.",
    ):
        check_account("no-such-user")
    monkeypatch.setenv("PATH", "/nonexistent")
    with refused(
        DependencyNotFound,
        says="The program newuidmap is not installed on this host and no id can be mapped without it: "
        "install the package uidmap.",
    ):
        check_tools()
