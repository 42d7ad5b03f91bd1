# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images that ``cp`` and ``clone`` store: they have the size of their headers, without footers and snapshots.

Images that exceed the free space leave no files.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    InvalidInput,
    NoSpace,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopiedImage, CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image import qemu_img as qemu_img_command
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_chain import ImageChain, copy_chain
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

MIB = 1 << 20
GIB = 1 << 30


def qemu(program: str, *argv: object) -> str:
    return subprocess.run([program, *map(str, argv)], check=True, stdout=subprocess.PIPE, text=True).stdout


@pytest.fixture
def driver(tmp_path: Path) -> FsDriver:
    return driver_at(tmp_path, tmp_path / "100")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """Return a directory on a file system of 64 MiB."""
    point = tmp_path / "small"
    point.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tests", str(point)], check=True)
    yield point
    subprocess.run(["umount", str(point)], check=True)


def driver_at(safe: Path, directory: Path, kind: str = "image") -> FsDriver:
    directory.mkdir()
    return FsDriver(Datastore(100, "x", kind, "fs", "shared", str(directory), safe_dirs=(str(safe),)))


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def byte_at(path: str, offset: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(1)


# Sizes


def vhd(path: Path, creator: bytes) -> int:
    """Create a dynamic VHD with a mark in its last sector, and return its size.

    The geometry is rounded down, as in files of other programs than QEMU.
    """
    size, cylinders = 20 * GIB, 20 * GIB // 512 // 63 // 16
    qemu("qemu-img", "create", "-q", "-f", "vpc", "-o", "subformat=dynamic,force_size=on", path, size)
    qemu("qemu-io", "-f", "vpc", "-c", f"write -q -P 0x47 {size - 512} 512", path)
    with open(path, "r+b") as file:
        for offset in (0, path.stat().st_size - 512):
            file.seek(offset)
            footer = bytearray(file.read(512))
            footer[28:32] = creator
            footer[40:60] = struct.pack(">QQHBB", size, size, cylinders, 16, 63)
            footer[64:68] = bytes(4)
            footer[64:68] = struct.pack(">I", ~sum(footer) & 0xFFFFFFFF)
            file.seek(offset)
            file.write(footer)
    return size


@pytest.mark.parametrize("creator", [b"vbox", b"wa\0\0", b"win ", b"d2v "])
@pytest.mark.parametrize("wanted", [None, "raw", "qcow2"])
def test_a_vhd_of_another_program_keeps_its_end(
    tmp_path: Path, driver: FsDriver, creator: bytes, wanted: str | None
) -> None:
    """The end is also there in guests of a QEMU that uses the geometry."""
    size = vhd(tmp_path / "disk.vhd", creator)
    assert driver.stat(str(tmp_path / "disk.vhd")) == size // MIB
    copied = driver.cp(str(tmp_path / "disk.vhd"), CopyOptions("os", driver_format=wanted))
    stored = wanted or ("vpc" if creator in (b"win ", b"d2v ") else "raw")
    assert copied == CopiedImage(copied.source, stored, size // MIB)
    qemu("qemu-img", "convert", "-f", stored, "-O", "raw", copied.source, tmp_path / "raw")
    assert (tmp_path / "raw").stat().st_size == size
    assert byte_at(str(tmp_path / "raw"), size - 1) == b"\x47"


def test_a_vhd_of_the_datastore_is_exported_as_a_whole(tmp_path: Path) -> None:
    size = vhd(tmp_path / "disk.vhd", b"vbox")
    with new_image(str(tmp_path)) as part:
        copy_chain(ImageChain((str(tmp_path / "disk.vhd"),), "vpc"), part, "raw")
        assert os.fstat(part.fd).st_size == size


@pytest.mark.parametrize(("size", "stored"), [(3 * MIB, 3), (3 * MIB + 512, 4)])
def test_a_fixed_vhd_is_stored_without_its_footer(tmp_path: Path, driver: FsDriver, size: int, stored: int) -> None:
    data = bytes(510) + b"\x55\xaa" + noise(size - 512)
    (tmp_path / "raw").write_bytes(data)
    qemu(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
        tmp_path / "raw",
        tmp_path / "disk.vhd",
    )
    path = str(tmp_path / "disk.vhd")
    assert driver.stat(path) == stored
    copied = driver.cp(path, CopyOptions("os"))
    assert copied == CopiedImage(copied.source, "raw", stored)
    assert Path(copied.source).read_bytes() == data
    subprocess.run(["gzip", "-k", path], check=True)
    assert driver.stat(f"{path}.gz") == stored
    assert Path(driver.cp(f"{path}.gz", CopyOptions("os")).source).read_bytes() == data
    kept = driver.cp(path, CopyOptions("os", image_format="raw"))
    assert Path(kept.source).read_bytes() == Path(path).read_bytes()


def test_the_size_of_a_fixed_vhd_at_a_url(tmp_path: Path, driver: FsDriver) -> None:
    (tmp_path / "raw").write_bytes(noise(3 * MIB))
    qemu(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        "vpc",
        "-o",
        "subformat=fixed,force_size=on",
        tmp_path / "raw",
        tmp_path / "disk.vhd",
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}/disk.vhd"
        try:
            assert driver.stat(url) == 3
            copied = driver.cp(url, CopyOptions("os"))
        finally:
            server.shutdown()
    assert copied.size_mb == 3
    assert Path(copied.source).read_bytes() == noise(3 * MIB)


def test_a_disk_of_another_size_than_its_header_says_is_not_stored(tmp_path: Path, driver: FsDriver) -> None:
    """qemu reads whole sectors and ignores the remainder."""
    qemu("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M")
    with open(tmp_path / "disk", "r+b") as file:
        file.seek(24)
        file.write(struct.pack(">Q", MIB - 100))
    with refused(
        InvalidInput,
        says=f"path: '{tmp_path}/disk' is not accepted: its header says that the disk has 1048476 "
        "bytes, and qemu-img reads 1048064.",
    ):
        driver.cp(str(tmp_path / "disk"), CopyOptions("os", driver_format="raw"))
    assert not os.listdir(tmp_path / "100")


def test_each_conversion_compares_the_sizes(tmp_path: Path) -> None:
    qemu("qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "disk", "1M")
    with open(tmp_path / "disk", "r+b") as file:
        file.seek(24)
        file.write(struct.pack(">Q", MIB - 100))
    for wanted in ("raw", "vmdk"):
        with (
            new_image(str(tmp_path)) as part,
            refused(
                CommandFailed,
                says=f"qemu-img made a disk of 1048064 bytes of {tmp_path}/disk, whose header has 1048476 "
                "bytes; nothing was stored.",
            ),
        ):
            copy_chain(ImageChain((str(tmp_path / "disk"),), "qcow2"), part, wanted)


# Snapshots


def with_snapshots(path: Path, count: int) -> bytes:
    """Create a qcow2 image with internal snapshots, and return its present content."""
    qemu("qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
    for number in range(count):
        qemu("qemu-io", "-f", "qcow2", "-c", f"write -q -P {number + 1} 0 1M", path)
        qemu("qemu-img", "snapshot", "-c", f"s{number}", path)
    qemu("qemu-io", "-f", "qcow2", "-c", "write -q -P 0x99 1M 1M", path)
    return bytes([count]) * MIB + b"\x99" * MIB + bytes(2 * MIB)


@pytest.mark.parametrize("wanted", [None, "qcow2", "raw"])
def test_internal_snapshots_are_left_out(tmp_path: Path, driver: FsDriver, wanted: str | None) -> None:
    data = with_snapshots(tmp_path / "disk", 5)
    copied = driver.cp(str(tmp_path / "disk"), CopyOptions("os", driver_format=wanted))
    assert copied.warnings == (f"{tmp_path}/disk has 5 internal snapshots, which are left out.",)
    assert copied.format == (wanted or "qcow2")
    assert os.stat(copied.source).st_size < 5 * MIB
    assert '"snapshots"' not in qemu("qemu-img", "info", "--output=json", copied.source)
    qemu("qemu-img", "convert", "-f", copied.format, "-O", "raw", copied.source, tmp_path / "raw")
    assert (tmp_path / "raw").read_bytes() == data
    assert os.listdir(tmp_path / "100") == [os.path.basename(copied.source)]


# Incomplete images


def test_a_cut_image_leaves_nothing_behind(tmp_path: Path, driver: FsDriver) -> None:
    (tmp_path / "raw").write_bytes(noise(MIB))
    for image_format in ("qcow2", "vmdk", "vdi", "vhdx", "vpc"):
        path = tmp_path / image_format
        qemu("qemu-img", "convert", "-f", "raw", "-O", image_format, tmp_path / "raw", path)
        os.truncate(path, path.stat().st_size - 4096)
        with refused(InvalidInput, option="path", value=str(path)):
            driver.cp(str(path), CopyOptions("os", driver_format="raw"))
        assert not os.listdir(tmp_path / "100")
    copied = driver.cp(str(tmp_path / "vdi"), CopyOptions("os", driver_format="raw", verify=False))
    assert "is stored because verify is false, but by the tables of this vdi image" in copied.warnings[0]


def test_a_cdrom_is_looked_at_and_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(noise(MIB))
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-o", tmp_path / "iso", tmp_path / "content"],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    os.truncate(tmp_path / "iso", MIB // 2)
    with refused(
        InvalidInput,
        says=f"path: '{tmp_path}/iso' is not accepted: a whole, sound image is expected, and by its "
        "ISO 9660 volume descriptor the disk has * bytes, of which * are there; verify: false "
        "stores it nevertheless.",
    ):
        driver_at(tmp_path, tmp_path / "100").cp(str(tmp_path / "iso"), CopyOptions("cdrom"))
    assert (
        driver_at(tmp_path, tmp_path / "101", "file").cp(str(tmp_path / "iso"), CopyOptions("kernel")).format == "raw"
    )


def test_a_clone_of_an_image_that_is_not_whole(tmp_path: Path, driver: FsDriver) -> None:
    source = tmp_path / "100" / ("a" * 32)
    (tmp_path / "raw").write_bytes(noise(MIB))
    qemu("qemu-img", "convert", "-f", "raw", "-O", "qcow2", tmp_path / "raw", source)
    os.truncate(source, source.stat().st_size - 1)
    with refused(
        Conflict,
        says=f"The image {source} is damaged: by the tables of this qcow2 image the file has * bytes "
        "at least, of which * are there; verify: false clones it nevertheless.",
    ):
        driver.clone(str(source), "qcow2", CopyOptions("os"))
    assert os.listdir(tmp_path / "100") == [source.name]
    (warning,) = driver.clone(str(source), "qcow2", CopyOptions("os", verify=False)).warnings
    assert warning.startswith(f"The image {source} is damaged, but cloned because verify is false: by the tables")


# Limits


def test_a_conversion_leaves_free_space_to_others(tmp_path: Path, small: Path) -> None:
    """The clusters take almost no space, and would exceed the file system when converted."""
    (tmp_path / "raw").write_bytes(b"x" * (100 * MIB))
    qemu("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", tmp_path / "raw", tmp_path / "disk")
    assert (tmp_path / "disk").stat().st_size < 2 * MIB
    with refused(
        NoSpace,
        says=f"Could not convert {tmp_path}/disk: No space left on device but 16 MiB, which a "
        "conversion leaves to other users. Nothing was changed.",
    ):
        driver_at(tmp_path, small / "100").cp(str(tmp_path / "disk"), CopyOptions("os", driver_format="raw"))
    assert not os.listdir(small / "100")


def test_a_conversion_is_stopped_when_it_takes_too_long(
    tmp_path: Path, driver: FsDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    qemu("qemu-img", "create", "-q", "-f", "vhdx", tmp_path / "disk", 8 << 40)  # all its zeros are read
    monkeypatch.setattr(qemu_img_command, "BYTES_PER_CPU_SECOND", 1 << 60)
    monkeypatch.setattr(qemu_img_command, "CPU_SECONDS", 1)
    with refused(CommandFailed, names=[tmp_path / "disk", "1 s of CPU time and 512 MiB", "stopped by SIGKILL"]):
        driver.cp(str(tmp_path / "disk"), CopyOptions("os", driver_format="qcow2"))
    assert not os.listdir(tmp_path / "100")


def test_a_disk_without_data_takes_time_too(tmp_path: Path, driver: FsDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """qemu-img reads all the zeros of a VHDX: an empty one takes far longer than a file of its allocated size."""
    qemu("qemu-img", "create", "-q", "-f", "vhdx", tmp_path / "disk", 256 * GIB)
    monkeypatch.setattr(qemu_img_command, "CPU_SECONDS", 1)
    assert driver.cp(str(tmp_path / "disk"), CopyOptions("os", driver_format="qcow2")).size_mb == 256 * 1024


@pytest.mark.parametrize(("options", "size"), [("log_size=2M", 10 * MIB), ("block_size=1M", 3 << 40)])
def test_a_vhdx_with_its_size_behind_a_long_log_or_table(
    tmp_path: Path, driver: FsDriver, options: str, size: int
) -> None:
    qemu("qemu-img", "create", "-q", "-f", "vhdx", "-o", options, tmp_path / "disk", size)
    assert driver.stat(str(tmp_path / "disk")) == size // MIB
    assert driver.preview(str(tmp_path / "disk"), CopyOptions("os")).size_mb == size // MIB
    assert driver.cp(str(tmp_path / "disk"), CopyOptions("os")).size_mb == size // MIB
    if size < GIB:  # without it all the zeros would be read
        assert driver.cp(str(tmp_path / "disk"), CopyOptions("os", driver_format="qcow2")).format == "qcow2"
