# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    DependencyNotFound,
    FileAccessFailed,
    InvalidInput,
    NoSpace,
    NotFound,
    PathNotAllowed,
    StaleState,
    UnsupportedAction,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image import export as image_export
from refusal import refused

EXPORT = "image_export"


@pytest.fixture
def dest(store) -> Path:
    (store.root / "out").mkdir()
    return store.root / "out" / "exported $(x)"


def info(path: Path) -> dict:
    return json.loads(
        subprocess.run(["qemu-img", "info", "--output=json", path], check=True, capture_output=True).stdout
    )


@pytest.mark.parametrize("image_format", [None, "raw", "qcow2"])
@pytest.mark.parametrize("snapshot", [None, 1])
def test_export(filled, dest, image_format, snapshot) -> None:
    plans = filled.four(EXPORT, dest=str(dest), format=image_format, snapshot=snapshot)
    expected = image_format or filled.found().format
    assert filled.holds(dest, expected) == ([1, 2, 3, 4] if snapshot is None else [1, 2, 0, 0])
    assert info(dest)["format"] == expected
    assert "backing-filename" not in info(dest)
    result = {
        "dest": str(dest),
        "format": expected,
        "size": dest.stat().st_size,
        "checksum": f"sha256:{hashlib.sha256(dest.read_bytes()).hexdigest()}",
    }
    assert [plan.result for plan in plans] == [{**result, "size": None, "checksum": None}, result, result, result]
    assert dest.stat().st_mode & 0o7777 == 0o600
    assert os.listdir(dest.parent) == [dest.name]
    assert plans[1].warnings == []


def test_one_file_in_its_format_is_copied_with_its_holes(store, dest) -> None:
    store.copies()
    os.truncate(store.image, 64 * 2**20 + 7)
    store.four(EXPORT, dest=str(dest))
    assert subprocess.run(["cmp", store.image, dest], check=False).returncode == 0
    assert dest.stat().st_blocks * 512 < 5 * 2**20
    # A file that is one byte shorter is another file.
    os.truncate(dest, 64 * 2**20 + 6)
    with pytest.raises(Conflict):
        store.service(EXPORT, dest=str(dest)).plan()


def test_a_file_that_differs_is_replaced_by_force_only(filled, dest) -> None:
    for data in (b"", b"other" * 1000, filled.active.read_bytes()[:-512]):
        dest.write_bytes(data)
        dest.chmod(0o644)
        for method in ("plan", "converge"):
            with refused(
                Conflict, says=f"dest: '{dest}' exists and is not 'x' in the format qcow2; force replaces it."
            ):
                getattr(filled.service(EXPORT, dest=str(dest), format="qcow2"), method)()
        assert dest.read_bytes() == data
        filled.four(EXPORT, dest=str(dest), format="qcow2", force=True)
        assert filled.holds(dest, "qcow2") == [1, 2, 3, 4]
        assert dest.stat().st_mode & 0o7777 == 0o600


def test_a_backing_file_that_a_file_gets_while_it_is_compared_is_not_opened(filled, dest, monkeypatch) -> None:
    def late(descriptor: int, **options: object) -> object:
        found = inspect(descriptor, **options)
        subprocess.run(
            ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "nbd+unix:///?socket=/nowhere", dest],
            check=True,
        )
        return found

    filled.four(EXPORT, dest=str(dest), format="qcow2")
    inspect = image_export.inspect
    monkeypatch.setattr(image_export, "inspect", late)
    assert filled.service(EXPORT, dest=str(dest), format="qcow2").plan().actions == []


def test_another_format_is_another_file(filled, dest) -> None:
    filled.four(EXPORT, dest=str(dest), format="raw")
    with pytest.raises(Conflict):
        filled.service(EXPORT, dest=str(dest), format="qcow2").plan()
    filled.four(EXPORT, dest=str(dest), format="qcow2", force=True)
    with pytest.raises(Conflict):
        filled.service(EXPORT, dest=str(dest), format="raw").plan()


def test_a_file_that_needs_another_one_is_not_the_image(filled, dest) -> None:
    """The file with its backing file has the same content for a guest."""
    whole = dest.parent / "whole"
    filled.four(EXPORT, dest=str(whole), format="qcow2")
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", whole, dest], check=True)
    with refused(Conflict, names=["dest", dest]):
        filled.service(EXPORT, dest=str(dest), format="qcow2").plan()


def test_what_a_guest_wrote_into_its_raw_disk_is_data(store, dest) -> None:
    store.copies()
    qcow2 = dest.parent / "qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/passwd", qcow2, "1M"], check=True
    )
    with open(store.image, "r+b") as image:
        image.write(qcow2.read_bytes())
    store.four(EXPORT, dest=str(dest))
    assert subprocess.run(["cmp", store.image, dest], check=False).returncode == 0
    store.four(EXPORT, dest=str(dest), format="qcow2", force=True)
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "qcow2", store.image, dest], check=True)
    assert "backing-filename" not in info(dest)


@pytest.mark.parametrize("image_format", ["vmdk", "vdi"])
def test_formats_that_are_only_kept(store, dest, image_format) -> None:
    subprocess.run(["qemu-img", "create", "-q", "-f", image_format, store.image, "1M"], check=True)
    store.write(store.image, 0, image_format)
    store.row(format=image_format)
    store.four(EXPORT, dest=str(dest))
    assert subprocess.run(["cmp", store.image, dest], check=False).returncode == 0
    store.four(EXPORT, dest=str(dest), format="raw", force=True)
    assert store.holds(dest, "raw") == [1]


def test_a_chain_that_leaves_the_image(store, dest) -> None:
    store.chain()
    (store.directory / "0").write_bytes((store.snapshots / "0").read_bytes())
    subprocess.run(
        ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"{store.directory}/0", store.snapshots / "1"],
        check=True,
    )
    with refused(Conflict, names=[store.snapshots / "1", f"'{store.directory}/0'"]):
        store.service(EXPORT, dest=str(dest)).converge()
    assert os.listdir(dest.parent) == []


def test_an_image_that_leads_elsewhere(store, dest) -> None:
    store.image.symlink_to("/etc/passwd")
    store.row(format="raw")
    with refused(Conflict, names=["'/etc/passwd'"]):
        store.service(EXPORT, dest=str(dest)).converge()


def test_places_that_are_refused(store, dest) -> None:
    store.copies()
    inside = dest.parent / "link"
    inside.symlink_to(store.directory)
    before = store.tree()
    for path in (
        store.directory / "x",
        store.image,
        store.root / "datastores" / "new",
        inside / "x",
        store.snapshots / "9",
    ):
        with refused(
            PathNotAllowed,
            says=f"dest: '{path}' is not accepted: a file outside of the directories of all datastores is "
            "expected, and * is one.",
        ):
            store.service(EXPORT, dest=str(path), force=True).converge()
    for end in ("", "-wal", "-journal", ".images.lock"):
        with refused(
            PathNotAllowed, says=f"dest: '{store.catalog}{end}' is not accepted: it is a file of the catalog."
        ):
            store.service(EXPORT, dest=store.catalog + end, force=True).converge()
    with refused(InvalidInput, says="dest: '/' is not accepted: the path of a file is expected."):
        store.service(EXPORT, dest="/", force=True).converge()
    for path in ("relative", f"{dest.parent}/../x", f"{dest}\n"):
        with refused(InvalidInput, option="dest", value=path):
            store.service(EXPORT, dest=path, force=True).converge()
    with refused(
        FileAccessFailed, says=f"Could not open the directory {dest.parent}/none of dest: No such file or directory."
    ):
        store.service(EXPORT, dest=f"{dest.parent}/none/x").converge()
    assert store.tree() == before


@pytest.mark.parametrize(
    "make",
    [lambda path: path.symlink_to("nothing"), lambda path: path.symlink_to("/etc/passwd"), Path.mkdir, os.mkfifo],
)
def test_what_is_no_regular_file_is_refused(store, dest, make) -> None:
    store.copies()
    make(dest)
    for force in (False, True):
        with refused(
            InvalidInput,
            says=f"dest: '{dest}' is not accepted: the path of a regular file is expected, or one where "
            "nothing is yet, and no symbolic link.",
        ):
            store.service(EXPORT, dest=str(dest), force=force).converge()
    assert os.listdir(dest.parent) == [dest.name]


def test_a_directory_that_is_exchanged_for_a_link(store, dest, monkeypatch) -> None:
    store.copies()
    elsewhere = store.root / "elsewhere"
    elsewhere.mkdir()
    copy = image_export.copy_chain

    def exchange(*arguments: object) -> list[str]:
        dest.parent.rename(store.root / "moved")
        dest.parent.symlink_to(elsewhere)
        return copy(*arguments)

    monkeypatch.setattr(image_export, "copy_chain", exchange)
    store.service(EXPORT, dest=str(dest), format="qcow2").converge()
    assert os.listdir(elsewhere) == []
    assert os.listdir(store.root / "moved") == [dest.name]


def test_a_file_that_another_program_makes_meanwhile(store, dest, monkeypatch) -> None:
    store.copies()
    copy = image_export.copy_chain

    def meanwhile(*arguments: object) -> list[str]:
        dest.write_bytes(b"theirs")
        return copy(*arguments)

    monkeypatch.setattr(image_export, "copy_chain", meanwhile)
    with refused(
        StaleState, says=f"dest: '{dest}' was changed by another program while the image was written; try again."
    ):
        store.service(EXPORT, dest=str(dest)).converge()
    assert dest.read_bytes() == b"theirs"
    assert os.listdir(dest.parent) == [dest.name]


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_full_disk_leaves_nothing(store, dest, image_format) -> None:
    store.copies()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tests", dest.parent], check=True)
    try:
        dest.write_bytes(b"old")
        with refused(NoSpace, names=[os.strerror(errno.ENOSPC)]) as caught:
            store.service(EXPORT, dest=str(dest), format=image_format, force=True).converge()
        assert "/proc/" not in str(caught.value)
        assert os.listdir(dest.parent) == [dest.name]
        assert dest.read_bytes() == b"old"
    finally:
        subprocess.run(["umount", dest.parent], check=True)


def test_a_used_image_is_exported_with_a_warning(filled, dest) -> None:
    filled.use()
    assert [
        "the domain 'web' on the host 'h1'" in text for text in filled.service(EXPORT, dest=str(dest)).plan().warnings
    ] == [True]
    assert filled.service(EXPORT, dest=str(dest), snapshot=1).plan().warnings == []


def test_no_such_snapshot(filled, dest) -> None:
    for number in (3, 7, -1):
        with refused(NotFound, names=["snapshot", "'x'", number]):
            filled.service(EXPORT, dest=str(dest), snapshot=number).plan()


def test_a_driver_without_data(store, dest) -> None:
    store.row(type="filesystem", path="/srv", format="dir", datastore_id=101, mount_tag="t", mount_point="/x")
    with refused(UnsupportedAction, names=["content", "virtiofs"]):
        store.service(EXPORT, dest=str(dest)).plan()


def test_no_such_image(store, dest) -> None:
    with refused(DependencyNotFound, says=f"image: there is no image 'x' in the catalog {store.catalog}."):
        store.service(EXPORT, dest=str(dest)).converge()
