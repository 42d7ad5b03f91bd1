# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""A source that another process writes to during the copy.

The writers are qemu-io(1), which locks like a virtual machine, and the test itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import Conflict, StaleState
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image import copy
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_chain import ImageChain, copy_chain
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from ansible_collections.granary.vmstore.plugins.module_utils._image.still import is_written_to
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

MIB = 1 << 20


@pytest.fixture
def driver(tmp_path: Path) -> FsDriver:
    (tmp_path / "datastores" / "1").mkdir(parents=True)
    return FsDriver(
        Datastore(
            1, "one", "image", "fs", "ssh", str(tmp_path / "datastores" / "1"), safe_dirs=(str(tmp_path / "files"),)
        )
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a raw disk below a permitted directory."""
    path = tmp_path / "files" / "disk"
    path.parent.mkdir()
    path.write_bytes(b"\xeb\x63\x90".ljust(510, b"\0") + b"\x55\xaa" + bytes(4 * MIB - 512))
    return path


def list_stored(driver: FsDriver) -> list[str]:
    return os.listdir(driver.datastore.base_path)


def test_what_a_program_has_open_for_writing_is_refused(
    driver: FsDriver, file: Path, opened_by_qemu: Callable[..., None]
) -> None:
    opened_by_qemu(file, "-f", "raw")
    with refused(
        Conflict,
        says=f"{file} is open for writing in another program, such as a running virtual machine; shut "
        "that down first, or give verify: false to store what comes out.",
    ):
        driver.cp(str(file), CopyOptions("os"))
    assert list_stored(driver) == []


def test_check_mode_says_so(driver: FsDriver, file: Path, opened_by_qemu: Callable[..., None]) -> None:
    opened_by_qemu(file, "-f", "raw")
    with refused(Conflict, names=[file]):
        driver.preview(str(file), CopyOptions("os"))
    assert len(driver.preview(str(file), CopyOptions("os", verify=False)).warnings) == 1


def test_with_consent_it_is_stored_with_a_warning(
    driver: FsDriver, file: Path, opened_by_qemu: Callable[..., None]
) -> None:
    opened_by_qemu(file, "-f", "raw")
    copied = driver.cp(str(file), CopyOptions("os", verify=False))
    assert copied.warnings == (
        f"{file} is open for writing in another program, such as a running virtual machine, so the copy may hold parts "
        "of different states.",
    )
    assert Path(copied.source).read_bytes() == file.read_bytes()


def test_what_is_open_for_reading_is_copied(driver: FsDriver, file: Path, opened_by_qemu: Callable[..., None]) -> None:
    opened_by_qemu(file, "-r", "-f", "raw")
    with file.open("rb") as opened:
        assert not is_written_to(opened.fileno())
    assert driver.cp(str(file), CopyOptions("os")).warnings == ()


@pytest.mark.parametrize("change", ["longer", "shorter", "other"])
@pytest.mark.parametrize("verify", [True, False])
def test_what_changes_meanwhile_is_refused(
    driver: FsDriver, file: Path, monkeypatch: pytest.MonkeyPatch, change: str, verify: bool
) -> None:
    original = copy.copy_local

    def meanwhile(*arguments: object, **named: object) -> None:
        original(*arguments, **named)
        with file.open("r+b") as opened:
            if change == "other":
                opened.write(b"other")
            else:
                opened.truncate(5 * MIB if change == "longer" else MIB)

    monkeypatch.setattr(copy, "copy_local", meanwhile)
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))  # whatever the clock resolution is
    if verify:
        with refused(StaleState, names=[file]):
            driver.cp(str(file), CopyOptions("os"))
        assert list_stored(driver) == []
    else:
        copied = driver.cp(str(file), CopyOptions("os", verify=False))
        assert copied.warnings == (
            f"{file} was written to while it was copied, so the copy may hold parts of different states.",
        )


def test_an_image_that_is_written_to_is_not_cloned(
    driver: FsDriver, file: Path, opened_by_qemu: Callable[..., None]
) -> None:
    image = driver.cp(str(file), CopyOptions("os")).source
    opened_by_qemu(Path(image), "-f", "raw")
    with refused(Conflict, names=[image]):
        driver.clone(image, "raw", CopyOptions("os"))
    assert list_stored(driver) == [os.path.basename(image)]
    assert len(driver.clone(image, "raw", CopyOptions("os", verify=False)).warnings) == 1


def test_an_export_warns(driver: FsDriver, file: Path, opened_by_qemu: Callable[..., None], tmp_path: Path) -> None:
    opened_by_qemu(file, "-f", "raw")
    with new_image(str(tmp_path)) as part:
        assert copy_chain(ImageChain((str(file),), "raw"), part, "raw") == [
            f"{file} is open for writing in another program, such as a running virtual machine, so the copy may hold "
            "parts of different states."
        ]
