# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import grp
import pwd
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.ids.owners import other_owners
from ansible_collections.granary.vmstore.plugins.module_utils._model.idmap import IdMap


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "subuid").write_text(
        "daemon:100000:65536\n1:165536:10\nalice:90000:10000\nbob:99990:11\n4242:165535:1\n# carol:100000:1\n"
    )
    (tmp_path / "subgid").write_text("daemon:100000:65536\ncarol:100005:1\n")
    return tmp_path


def test_ranges_of_others_that_overlap(etc: Path) -> None:
    assert other_owners("daemon", "uid", [IdMap(0, 100000, 65536)], str(etc)) == [
        f"bob:99990:11 in {etc}/subuid",
        f"4242:165535:1 in {etc}/subuid",
    ]
    assert other_owners("daemon", "gid", [IdMap(0, 100000, 5), IdMap(5, 100006, 10)], str(etc)) == []
    assert other_owners("daemon", "gid", [IdMap(0, 100000, 6)], str(etc)) == [f"carol:100005:1 in {etc}/subgid"]
    # Ids of the user itself, by name or by number.
    assert other_owners("daemon", "uid", [IdMap(0, 165536, 10)], str(etc)) == []
    assert other_owners("daemon", "uid", [], str(etc)) == []


def test_ranges_in_files_that_nobody_reads(etc: Path) -> None:
    (etc / "nsswitch.conf").write_text("subid: sss\n")
    assert other_owners("daemon", "uid", [IdMap(0, 100000, 65536)], str(etc)) == []


def test_accounts_and_groups_with_an_id_of_the_map(etc: Path) -> None:
    account, group = pwd.getpwnam("nobody"), grp.getgrnam("nogroup")
    assert f"the account 'nobody' (uid {account.pw_uid})" in other_owners(
        "daemon", "uid", [IdMap(0, account.pw_uid, 1)], str(etc)
    )
    assert f"the group 'nogroup' (gid {group.gr_gid})" in other_owners(
        "daemon", "gid", [IdMap(0, group.gr_gid, 1)], str(etc)
    )
