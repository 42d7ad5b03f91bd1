# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Block devices as sources of images, represented by loop devices, which the kernel treats like all others."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    Conflict,
    InvalidInput,
    PathNotAllowed,
    StaleState,
)
from ansible_collections.granary.vmstore.plugins.module_utils._core.plan import Plan
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.bridge import read_frames
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.source_file import open_source_file
from ansible_collections.granary.vmstore.plugins.module_utils._image import copy
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._remote.stream import Received
from ansible_collections.granary.vmstore.plugins.module_utils._service.datastore.desired import (
    DATASTORE_SPEC,
    DatastoreService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from refusal import refused

MIB = 1 << 20

Attach = Callable[..., str]


def command(*argv: object) -> str:
    if shutil.which(str(argv[0])) is None:
        pytest.fail(f"install the package that has {argv[0]}: mount, e2fsprogs, qemu-utils")
    return subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


@pytest.fixture
def attach(tmp_path: Path) -> Iterator[Attach]:
    """Attach a loop device to a new file of the given content."""
    devices: list[str] = []

    def make(content: bytes, *options: str) -> str:
        file = tmp_path / f"disk-{len(devices)}"
        file.write_bytes(content)
        devices.append(command("losetup", "--find", "--show", *options, file))
        return devices[-1]

    yield make
    for device in devices:
        command("losetup", "--detach", device)


def raw(size: int = 4 * MIB) -> bytes:
    """Write a disk with a boot sector, some data, and zeros."""
    return (b"\xeb\x63\x90".ljust(510, b"\0") + b"\x55\xaa" + bytes(MIB - 512) + os.urandom(64 << 10)).ljust(
        size, b"\0"
    )


Make = Callable[..., FsDriver]


@pytest.fixture
def driver(tmp_path: Path) -> Make:
    (tmp_path / "datastores" / "1").mkdir(parents=True)

    def make(*safe: str, **options: Any) -> FsDriver:
        return FsDriver(
            Datastore(1, "one", "image", "fs", "ssh", str(tmp_path / "datastores" / "1"), safe_dirs=safe, **options)
        )

    return make


def list_stored(driver: FsDriver) -> list[str]:
    return os.listdir(driver.datastore.base_path)


def test_a_device_becomes_an_image_with_holes(driver: Make, attach: Attach) -> None:
    content = raw()
    device = attach(content)
    fs = driver(device)
    assert (fs.stat(device), fs.preview(device, CopyOptions("os")).size_mb) == (4, 4)
    copied = fs.cp(device, CopyOptions("os"))
    assert (copied.format, copied.size_mb, copied.warnings) == ("raw", 4, ())
    assert Path(copied.source).read_bytes() == content
    assert os.stat(copied.source).st_blocks * 512 <= 128 << 10
    assert os.stat(fs.cp(device, CopyOptions("os", sparse=False)).source).st_blocks * 512 >= 4 * MIB
    assert copied.source != fs.cp(device, CopyOptions("os", checksums={"md5": command("md5sum", device)[:32]})).source


def test_a_device_with_a_qcow2_image(driver: Make, attach: Attach, tmp_path: Path) -> None:
    """oVirt and other programs store such images on logical volumes: the image ends before the device."""
    (tmp_path / "raw").write_bytes(content := raw())
    command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "qcow2")
    device = attach((tmp_path / "qcow2").read_bytes().ljust(8 * MIB, b"\0"))
    fs = driver(device)
    assert (fs.stat(device), fs.preview(device, CopyOptions("os")).size_mb) == (4, 4)
    copied = fs.cp(device, CopyOptions("os"))
    assert (copied.format, copied.size_mb) == ("qcow2", 4)
    command("qemu-img", "compare", "-f", "raw", "-F", "qcow2", tmp_path / "raw", copied.source)
    assert Path(fs.cp(device, CopyOptions("os", driver_format="raw")).source).read_bytes() == content
    kept = fs.cp(device, CopyOptions("os", image_format="raw"))
    assert (kept.format, kept.size_mb, fs.preview(device, CopyOptions("os", image_format="raw")).size_mb) == (
        "raw",
        8,
        8,
    )


def test_a_disk_that_is_longer_than_its_device(driver: Make, attach: Attach, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8 * MIB))
    command("mkfs.ext4", "-q", tmp_path / "file")
    device = attach((tmp_path / "file").read_bytes()[: 4 * MIB])
    for use in (driver(device).preview, driver(device).cp):
        with refused(
            InvalidInput,
            says=f"path: '{device}' is not accepted: a whole, sound image is expected, and by its ext2/3/4 "
            "superblock the disk has 8388608 bytes, of which 4194304 are there; verify: false stores "
            "it nevertheless.",
        ):
            use(device, CopyOptions("os"))
    assert list_stored(driver()) == []


def test_an_empty_device(driver: Make, attach: Attach) -> None:
    device = attach(bytes(MIB))
    assert driver(device).cp(device, CopyOptions("datablock")).size_mb == 1


# Permitted directories of devices


def test_devices_are_refused_where_nobody_allows_them(driver: Make, attach: Attach) -> None:
    device = attach(raw())
    for use in (driver().preview, driver().cp):
        with refused(PathNotAllowed, option="path", value=device, names=["safe_dirs"]):
            use(device, CopyOptions("os"))


@pytest.fixture
def group() -> Iterator[Path]:
    """Create a directory with names of devices, similar to a volume group."""
    path = Path("/dev/granary-test")
    path.mkdir(mode=0o755)
    yield path
    shutil.rmtree(path)


def test_a_name_that_root_gave_a_device_can_be_allowed(driver: Make, attach: Attach, group: Path) -> None:
    device = attach(content := raw())
    (group / "volume").symlink_to(f"../{Path(device).name}")
    named = str(group / "volume")
    for safe in (str(group), named, device, "/dev"):
        assert Path(driver(safe).cp(named, CopyOptions("os")).source).read_bytes() == content
    with pytest.raises(PathNotAllowed):
        driver(str(group)).cp(device, CopyOptions("os"))
    for restricted in (named, device):
        with refused(
            PathNotAllowed,
            option="path",
            value=str(device),
            names=[restricted],
        ):
            driver(str(group), restricted_dirs=(restricted,)).cp(named, CopyOptions("os"))


@pytest.mark.parametrize("kind", ["other's", "shared"])
def test_a_name_that_somebody_else_gave_it_can_not(driver: Make, attach: Attach, group: Path, kind: str) -> None:
    device = attach(raw())
    (group / "volume").symlink_to(device)
    os.chown(group, 61001 if kind == "other's" else 0, 0)
    group.chmod(0o755 if kind == "other's" else 0o1777)
    with pytest.raises(PathNotAllowed):
        driver(str(group)).cp(str(group / "volume"), CopyOptions("os"))


def test_a_link_elsewhere_allows_nothing(driver: Make, attach: Attach, tmp_path: Path) -> None:
    device = attach(raw())
    (tmp_path / "link").symlink_to(device)
    with refused(
        PathNotAllowed,
        says=f"path: '{device}' is not accepted: it lies in the restricted directory /dev and "
        "safe_dirs names no directory in there that holds it.",
    ):
        driver(str(tmp_path)).cp(str(tmp_path / "link"), CopyOptions("os"))


def test_a_device_that_a_file_server_has_is_none(driver: Make, attach: Attach, tmp_path: Path) -> None:
    """A file system without nodev can contain a node of any device of this host."""
    device = os.stat(attach(raw()))
    os.mknod(tmp_path / "node", 0o60600, device.st_rdev)
    with refused(
        InvalidInput,
        says=f"path: '{tmp_path}/node' is not accepted: a regular file is expected, or a block device in /dev.",
    ):
        driver(str(tmp_path)).cp(str(tmp_path / "node"), CopyOptions("os"))


def test_other_devices_are_none(driver: Make) -> None:
    with refused(InvalidInput, option="path", value="/dev/zero"):
        driver("/dev").cp("/dev/zero", CopyOptions("os"))


# Devices that are in use


@pytest.fixture
def formatted(attach: Attach, tmp_path: Path) -> str:
    (tmp_path / "file").write_bytes(bytes(8 * MIB))
    command("mkfs.ext4", "-q", tmp_path / "file")
    return attach((tmp_path / "file").read_bytes())


def test_a_mounted_device_is_refused(driver: Make, formatted: str, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()
    # A container that starts meanwhile would copy a mount of this namespace, and keep it.
    script = 'mount "$0" "$1"; echo; read -r _; umount "$1"'
    apart = ["unshare", "-m", "sh", "-ec", script, formatted, str(tmp_path / "mnt")]
    with subprocess.Popen(apart, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"\n"
        for use in (driver(formatted).preview, driver(formatted).cp):
            with refused(Conflict, names=[formatted, "verify: false"]):
                use(formatted, CopyOptions("os"))
        assert list_stored(driver()) == []
        copied = driver(formatted).cp(formatted, CopyOptions("os", verify=False))
        assert copied.warnings[0].startswith(
            f"{formatted} is mounted, or a part of another device or of a volume group, so the copy may hold parts of"
        )
        process.communicate(b"\n")
    assert process.returncode == 0
    assert driver(formatted).cp(formatted, CopyOptions("os")).warnings == ()


def test_a_device_that_another_one_holds_is_refused(driver: Make, attach: Attach) -> None:
    """LVM, RAID and swap hold their devices in the same way."""
    device = attach(raw())
    holder = os.open(device, os.O_RDONLY | os.O_EXCL)
    try:
        with refused(
            Conflict,
            says=f"{device} is mounted, or a part of another device or of a volume group; unmount it, or "
            "copy a snapshot of it, or give verify: false to store what comes out.",
        ):
            driver(device).cp(device, CopyOptions("os"))
    finally:
        os.close(holder)


@pytest.mark.parametrize("own_node", [False, True])
def test_a_device_that_a_program_writes_to_is_refused(
    driver: Make, attach: Attach, opened_by_qemu: Callable[..., None], group: Path, own_node: bool
) -> None:
    """libvirt gives QEMU separate nodes, on which locks of other processes are invisible."""
    device, node = attach(raw()), group / "node"
    os.mknod(node, 0o60600, os.stat(device).st_rdev)
    opened_by_qemu(node if own_node else Path(device), "-f", "raw")
    for use in (driver(device).preview, driver(device).cp):
        with refused(
            Conflict,
            says=f"{device} is open for writing in the program qemu-io (process *); end that first, or copy a snapshot "
            "of it, or give verify: false to store what comes out.",
        ):
            use(device, CopyOptions("os"))
    assert len(driver(device).cp(device, CopyOptions("os", verify=False)).warnings) == 1


def test_one_that_only_reads_is_not(driver: Make, attach: Attach, opened_by_qemu: Callable[..., None]) -> None:
    device = attach(raw())
    opened_by_qemu(Path(device), "-r", "-f", "raw")
    assert driver(device).cp(device, CopyOptions("os")).warnings == ()


def test_writers_of_other_devices_do_no_harm(driver: Make, attach: Attach, opened_by_qemu: Callable[..., None]) -> None:
    device = attach(raw())
    opened_by_qemu(Path(attach(raw())), "-f", "raw")
    assert driver(device).cp(device, CopyOptions("os")).warnings == ()


@pytest.mark.parametrize("verify", [True, False])
def test_a_device_that_is_written_to_meanwhile(
    driver: Make, attach: Attach, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    device = attach(raw())
    copied = copy.copy_local

    def disturbed(*arguments: Any, **options: Any) -> None:
        copied(*arguments, **options)
        with open(device, "r+b", buffering=0) as file:  # data of a closed buffered file may not be on the disk yet
            file.write(b"another boot sector")

    monkeypatch.setattr(copy, "copy_local", disturbed)
    if verify:
        with refused(
            StaleState,
            says=f"{device} was written to while it was copied; copy it when nothing writes to it, or give "
            "verify: false to store what comes out.",
        ):
            driver(device).cp(device, CopyOptions("os"))
        assert list_stored(driver()) == []
    else:
        assert (
            "was written to while it was copied"
            in driver(device).cp(device, CopyOptions("os", verify=False)).warnings[0]
        )


# A datastore on other hosts


def test_a_device_is_sent_to_another_host_whole(driver: Make, attach: Attach) -> None:
    device = attach(content := raw())
    with open_source_file(device, driver(device).check) as descriptor:
        sent = b"".join(read_frames(descriptor))
    received = Received(io.BytesIO(sent), len(content), lambda: None)
    head, chunks = received.begin(512)
    assert b"".join(chunks) == content and content.startswith(head)


# The module


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Plan]:
    catalog = str(tmp_path / "catalog.sqlite")
    open_catalog(catalog, create=True, datastore_location=str(tmp_path / "datastores")).close()
    (tmp_path / "datastores").mkdir()

    def run_service(spec: Any, service: Any, check: bool = False, **given: Any) -> Plan:
        made = service(
            {
                **{name: option.get("default") for name, option in spec.argument_spec.items()},
                "catalog": catalog,
                **given,
            }
        )
        return made.plan() if check else made.converge()

    return run_service


@pytest.mark.parametrize("kind", ["os", "datablock"])
def test_check_run_run_again_and_check_again(run: Callable[..., Plan], attach: Attach, group: Path, kind: str) -> None:
    device = attach(content := raw())
    (group / "volume").symlink_to(device)
    run(DATASTORE_SPEC, DatastoreService, name="default", safe_dirs=[str(group)])
    wish = {"name": "x", "datastore": "default", "type": kind, "path": str(group / "volume")}
    planned, done = run(IMAGE_SPEC, ImageService, check=True, **wish), run(IMAGE_SPEC, ImageService, **wish)
    assert [[action.name for action in plan.actions] for plan in (planned, done)] == [["create image"]] * 2
    assert planned.result["image"]["size_mb"] == done.result["image"]["size_mb"] == 4
    assert done.result["image"]["origin"] == str(group / "volume")
    assert Path(done.result["image"]["path"]).read_bytes() == content
    info = json.loads(command("qemu-img", "info", "--output=json", done.result["image"]["path"]))
    assert (info["format"], info["virtual-size"]) == ("raw", 4 * MIB)
    Path(device).write_bytes(b"a device that changes is no change")
    for check in (False, True):
        assert run(IMAGE_SPEC, ImageService, check=check, **wish).actions == []
