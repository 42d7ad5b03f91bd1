# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandMissing,
    Conflict,
    DependencyNotFound,
    InvalidInput,
    LockTimeout,
    NotFound,
    PathNotAllowed,
    StaleState,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._service.image import work as image_work
from refusal import refused

SNAPSHOT = "image_snapshot"


def test_delete(filled) -> None:
    plans = filled.four(SNAPSHOT, snapshot=1, state="absent")
    assert [plan.result["snapshots"] for plan in plans] == [[0, 2]] * 4
    assert not os.path.lexists(filled.snapshots / "1")
    assert filled.holds() == [1, 2, 3, 4]
    assert filled.holds(filled.snapshots / "2") == [1, 2, 3, 0]
    # The bytes of a raw image are unchanged.
    assert filled.found().checksum == ("md5:0" if filled.found().format == "raw" else None)


def test_delete_what_never_was(filled) -> None:
    assert not filled.service(SNAPSHOT, snapshot=7, state="absent").converge().changed


def test_revert(filled) -> None:
    plans = filled.four(SNAPSHOT, snapshot=1, state="reverted")
    assert [action.name for action in plans[1].actions] == ["update image", "revert image"]
    assert filled.holds() == [1, 2, 0, 0]
    assert [plan.result["snapshots"] for plan in plans] == [[0, 1, 2]] * 4
    assert filled.holds(filled.snapshots / "2") == [1, 2, 3, 0]
    assert filled.found().checksum is None
    # Later writes of the guest make a new revert necessary.
    filled.write(filled.active, 3, filled.found().format)
    assert filled.service(SNAPSHOT, snapshot=1, state="reverted").plan().changed


def test_flatten(filled) -> None:
    plans = filled.four(SNAPSHOT, snapshot=1, state="flattened", force=True)
    assert [plan.result["snapshots"] for plan in plans] == [[]] * 4
    assert os.listdir(filled.directory) == [filled.image.name]
    assert filled.holds() == [1, 2, 0, 0]
    told = subprocess.run(["qemu-img", "info", "--output=json", filled.image], check=True, capture_output=True).stdout
    assert "backing-filename" not in json.loads(told)
    assert filled.found().checksum is None


def test_flatten_does_not_lose_other_snapshots_by_itself(filled) -> None:
    before = filled.tree()
    for method in ("plan", "converge"):
        with refused(
            Conflict,
            says="The image 'x' can't be flattened to its snapshot 1 without force, because the other "
            "snapshots (0, 2) would be lost as well.",
        ):
            getattr(filled.service(SNAPSHOT, snapshot=1, state="flattened"), method)()
    assert filled.tree() == before
    for number in (0, 2):
        filled.service(SNAPSHOT, snapshot=number, state="absent").converge()
    filled.four(SNAPSHOT, snapshot=1, state="flattened")


@pytest.mark.parametrize("state", ["reverted", "flattened"])
def test_the_size_is_that_of_the_snapshot(store, state) -> None:
    store.copies()
    os.truncate(store.snapshots / "0", 2 * 2**20 + 512)
    plan = store.service(SNAPSHOT, snapshot=0, state=state, force=True).converge()
    assert plan.result["image"]["size_mb"] == store.found().size_mb == 3
    assert plan.result["image"]["datastore"] == "ds"


def test_a_run_that_was_killed_after_the_row_or_after_the_data(filled) -> None:
    plan = filled.service(SNAPSHOT, snapshot=0, state="reverted").plan()
    plan.actions[0].record()
    filled.four(SNAPSHOT, snapshot=0, state="reverted")
    assert filled.holds() == [1, 0, 0, 0]


@pytest.mark.parametrize("state", ["reverted", "flattened"])
def test_a_snapshot_that_is_not_there(filled, state) -> None:
    for number in (7, 3):  # in a chain, 3 is the active overlay
        with refused(NotFound, says=f"snapshot: the image 'x' has no snapshot {number}; it has 0, 1, 2."):
            filled.service(SNAPSHOT, snapshot=number, state=state, force=True).plan()


def test_without_snapshots(store) -> None:
    store.copies()
    subprocess.run(["rm", "-r", store.snapshots], check=True)
    for state in ("absent", "flattened"):
        assert not store.service(SNAPSHOT, snapshot=0, state=state).converge().changed
    with refused(NotFound, says="snapshot: the image 'x' has no snapshot 0; it has none."):
        store.service(SNAPSHOT, snapshot=0, state="reverted").plan()


@pytest.mark.parametrize("state", ["absent", "reverted", "flattened"])
def test_an_image_in_use(filled, state) -> None:
    for number in (0, 2):
        filled.service(SNAPSHOT, snapshot=number, state="absent").converge()
    filled.use()
    before = filled.tree()
    for method in ("plan", "converge"):
        with refused(Conflict, names=["'web'", "'h1'"]):
            getattr(filled.service(SNAPSHOT, snapshot=1, state=state), method)()
    assert filled.tree() == before
    filled.four(SNAPSHOT, snapshot=1, state=state, force=True)
    # A repeated action changes nothing, and needs no force.
    assert not filled.service(SNAPSHOT, snapshot=1, state=state).converge().changed


def test_a_domain_that_comes_while_images_are_compared(filled, monkeypatch) -> None:
    def compare(*contents: object) -> bool:
        filled.use()
        return False

    monkeypatch.setattr(FsDriver, "snap_same", compare)
    before, row = filled.tree(), filled.found()
    with refused(Conflict, names=["'web'"]):
        filled.service(SNAPSHOT, snapshot=1, state="reverted").converge()
    assert (filled.tree(), filled.found()) == (before, row)


def test_a_row_that_another_program_changes_meanwhile(filled) -> None:
    service = filled.service(SNAPSHOT, snapshot=1, state="reverted")
    plan = service.plan()
    filled.service(SNAPSHOT, snapshot=2, state="reverted").converge()
    before = filled.tree()
    with refused(StaleState, says="The image 'x' was changed in the catalog by another program meanwhile; try again."):
        plan.run()
    assert filled.tree() == before


def test_a_failure_leaves_the_row_as_it_was(store, monkeypatch) -> None:
    store.chain()
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    row = store.found()
    with refused(CommandMissing, names=["'qemu-img'"]):
        store.service(SNAPSHOT, snapshot=1, state="flattened", force=True).converge()
    assert store.found() == row


def test_one_run_at_a_time(filled, monkeypatch) -> None:
    program = (
        "import sys\nfrom ansible_collections.granary.vmstore.plugins.module_utils._service.image.work import "
        "image_lock\n"
        f"with image_lock({filled.catalog!r}, 0):\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    held = image_work.locked
    monkeypatch.setattr(image_work, "locked", lambda path, **options: held(path, deadline=0, **options))
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        before = filled.tree()
        for module, options in (
            (SNAPSHOT, {"snapshot": 1, "state": "absent"}),
            ("image_export", {"dest": str(filled.root / "x")}),
        ):
            with refused(LockTimeout, names=[filled.catalog]):
                filled.service(module, **options).converge()
        assert filled.tree() == before
        # The lock belongs to one image, and check mode needs no lock.
        with image_work.image_lock(filled.catalog, 1):
            assert filled.service(SNAPSHOT, snapshot=1, state="absent").plan().changed
        other.stdin.close()
    filled.four(SNAPSHOT, snapshot=1, state="absent")


def test_the_data_is_changed_without_a_transaction(store, monkeypatch) -> None:
    store.copies()
    revert = FsDriver.snap_revert

    def while_another_program_writes(*arguments: object) -> None:
        store.use()
        revert(*arguments)

    monkeypatch.setattr(FsDriver, "snap_revert", while_another_program_writes)
    assert store.service(SNAPSHOT, snapshot=1, state="reverted").converge().changed
    assert store.holds() == [1, 2, 0, 0]


def test_a_driver_without_snapshots(store) -> None:
    store.row(name="x", type="filesystem", path="/srv", format="dir", datastore_id=101, mount_tag="t", mount_point="/x")
    with refused(UnsupportedAction, names=["snapshot", "virtiofs"]):
        store.service(SNAPSHOT, snapshot=1, state="absent").plan()


def test_another_format(store) -> None:
    store.copies()
    store.row(name="y", format="vmdk")
    with refused(InvalidInput, says="format: 'vmdk' is not accepted: raw or qcow2 is expected."):
        store.service(SNAPSHOT, image="y", snapshot=1, state="reverted").plan()


def test_no_such_image(store) -> None:
    with refused(DependencyNotFound, names=["'x'"]):
        store.service(SNAPSHOT, snapshot=1, state="absent").converge()


@pytest.mark.parametrize("snapshot", [-1, 10**9])
def test_impossible_ids(store, snapshot) -> None:
    with refused(InvalidInput, says=f"snapshot: {snapshot!r} is not accepted: an id from 0 to * is expected."):
        store.service(SNAPSHOT, snapshot=snapshot, state="absent")


def test_a_path_outside_of_the_datastore(store, tmp_path) -> None:
    store.row(path="/etc/passwd", format="raw")
    with refused(
        PathNotAllowed,
        says="source: '/etc/passwd' is not accepted: an image of the datastore is expected: "
        f"{tmp_path}/datastores/100/<32 hexadecimal digits>.",
    ):
        store.service(SNAPSHOT, snapshot=0, state="flattened").plan()
