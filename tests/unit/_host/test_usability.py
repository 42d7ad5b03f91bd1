# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The actions of a user in a store, tried on mounts of the simulated datastore with the squash options of NFS."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, NoSpace, VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._core.identity import Identity
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.usability import ACTIONS, require_usable
from refusal import refused

#: A user without an account.
USER = Identity(61001, 61001)


def export(datastore_factory, mode: int = 0o770, owner: int = USER.uid, **options: str):
    datastore = datastore_factory({"host1": {"profile": "nfs4.2", **options}})
    os.chown(datastore.backing, owner, owner)
    datastore.backing.chmod(mode)
    return datastore


def refuse(
    datastore, *actions: str, names: Iterable[object] = (), user: Identity = USER, says: str | None = None
) -> None:
    """Require a refusal that contains ``names``. The store is as before."""
    with refused(Conflict, names=names, says=says):
        require_usable(str(datastore.path()), "one", user, actions)
    assert os.listdir(datastore.backing) == []
    assert (os.geteuid(), os.getegid()) == (0, 0)


def test_a_store_in_which_the_user_can_do_all(datastore_factory) -> None:
    datastore = export(datastore_factory, squash="none")
    require_usable(str(datastore.path()), "one", USER, ACTIONS)
    assert os.listdir(datastore.backing) == []
    operations = {row["op"] for row in datastore.ledger.query()}
    assert {"create", "chmod", "chown", "unlink"} <= operations
    assert (os.geteuid(), os.getegid(), os.getgroups()) == (0, 0, os.getgroups())


@pytest.mark.parametrize("squash", ["none", "root", "all"])
@pytest.mark.parametrize("action", ACTIONS)
def test_what_each_squash_option_leaves(squash: str, action: str, datastore_factory) -> None:
    """The table of the guide: root_squash forbids chown, and all_squash gives the files to the anonymous user."""
    datastore = export(datastore_factory, mode=0o777, squash=squash)
    allowed = {"none": ACTIONS, "root": ("create", "chmod", "lock"), "all": ("chmod", "lock")}[squash]
    if action in allowed:
        require_usable(str(datastore.path()), "one", USER, [action])
        assert os.listdir(datastore.backing) == []
        return
    remedy = {"chown": "no_root_squash", "create": f"anonuid={USER.uid}"}[action]
    refuse(datastore, action, names=[remedy])


def test_a_user_who_may_not_write(datastore_factory) -> None:
    datastore = export(datastore_factory, mode=0o755, owner=0)
    refuse(datastore, "create", names=["0:0 with mode 0755"])


def test_a_group_of_the_user_counts(datastore_factory) -> None:
    datastore = export(datastore_factory, mode=0o770, owner=61002)
    refuse(datastore, "create")
    require_usable(str(datastore.path()), "one", Identity(USER.uid, USER.gid, (61002,)), ["create"])


def test_a_read_only_store(datastore_factory) -> None:
    datastore = export(datastore_factory)
    datastore.set(state="read-only")
    refuse(datastore, "create", names=["read-only"])


def test_the_first_directory_that_is_closed_is_named(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & stat.S_IXOTH:
            closed = directory
    store = tmp_path / "a/store"
    store.mkdir(parents=True)
    with refused(Conflict, names=[f"because {closed} is closed"]):
        require_usable(str(store), "one", USER, ["create"])


def test_a_store_that_is_closed_itself(datastore_factory) -> None:
    datastore = export(datastore_factory, mode=0o700, owner=61002)
    refuse(datastore, "create", names=[f"because {datastore.path()} is closed"])


@pytest.mark.parametrize(
    ("operation", "action"), [("chmod", "chmod"), ("chown", "chown"), ("write", "create"), ("fsync", "create")]
)
def test_an_operation_that_the_server_refuses(operation: str, action: str, datastore_factory) -> None:
    datastore = export(datastore_factory, squash="none")
    for error in ("EOPNOTSUPP", "ENOSPC"):
        with datastore.fault(operation, error) as rule:
            with pytest.raises(VmstoreError):
                require_usable(str(datastore.path()), "one", USER, [action])
        assert rule.hits > 0
        assert os.listdir(datastore.backing) == []


def test_a_full_store_is_told_as_such(datastore_factory) -> None:
    datastore = export(datastore_factory)
    with datastore.fault("create", "ENOSPC"):
        with pytest.raises(NoSpace):
            require_usable(str(datastore.path()), "one", USER, ["create"])


def test_root_as_the_service_user(datastore_factory) -> None:
    datastore = export(datastore_factory, squash="none")
    require_usable(str(datastore.path()), "root", Identity(0, 0), ACTIONS)
    squashed = export(datastore_factory, mode=0o777, squash="root")
    refuse(squashed, "create", user=Identity(0, 0), names=["anonuid=0"])


def test_a_file_that_was_given_away_goes_from_a_sticky_directory(datastore_factory) -> None:
    datastore = export(datastore_factory, mode=0o1777, owner=0, squash="none")
    with datastore.fault("chown", "EIO", nth=2) as rule:
        with pytest.raises(Conflict):
            require_usable(str(datastore.path()), "one", USER, ["chown"])
    assert rule.hits == 1
    assert os.listdir(datastore.backing) == []
