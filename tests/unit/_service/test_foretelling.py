# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check mode returns the same errors as a real run and changes nothing, and a real run succeeds where check mode does.

The datastores are on a file system of 64 MiB.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import os
import random
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.datastores import DATASTORES
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.export import (
    IMAGE_EXPORT_SPEC,
    ImageExportService,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.snapshot import (
    IMAGE_SNAPSHOT_SPEC,
    ImageSnapshotService,
)

MIB = 2**20
FULL = "No space left on device"
SERVICES = {
    "image": (IMAGE_SPEC, ImageService),
    "image_export": (IMAGE_EXPORT_SPEC, ImageExportService),
    "image_snapshot": (IMAGE_SNAPSHOT_SPEC, ImageSnapshotService),
}


def qemu_img(*argv: object) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


class Store:
    """A catalog whose datastores are on a file system of 64 MiB, and ``files`` elsewhere for the sources of images."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.small, self.files, self.catalog = root / "small", root / "files", root / "catalog.sqlite"
        self.datastores = self.small / "datastores"
        for directory in (self.files, self.datastores):
            directory.mkdir()
        with (
            open_catalog(str(self.catalog), create=True, datastore_location=str(self.datastores)) as catalog,
            catalog.transaction(),
        ):
            self.datastore("several", catalog, supported_fs="btrfs ext4 f2fs ntfs vfat xfs")
            self.datastore("tiny", catalog, qcow2_options="cluster_size=512")

    def datastore(self, name: str, catalog: Any, base_path: str | None = None, **attributes: str) -> None:
        number = catalog.take_id("datastore")
        DATASTORES.insert(
            catalog,
            Datastore(
                number, name, "image", "fs", "ssh", base_path or f"{self.datastores}/{number}", attributes=attributes
            ),
        )

    def file(self, name: str, data: bytes) -> Path:
        (path := self.files / name).write_bytes(data)
        return path

    def noise(self, mebibytes: int) -> Path:
        """Write a raw disk without holes."""
        return self.file(
            f"{mebibytes}.raw", bytes(510) + b"\x55\xaa" + random.Random(mebibytes).randbytes(mebibytes * MIB - 512)
        )

    def converted(self, path: Path, image_format: str, *options: str) -> Path:
        target = path.with_suffix(f".{image_format}")
        qemu_img("convert", "-f", "raw", "-O", image_format, *options, path, target)
        return target

    def run(self, module: str, check: bool, **given: Any) -> Any:
        spec, build = SERVICES[module]
        options = {name: option.get("default") for name, option in spec.argument_spec.items()}
        service = build({**options, "catalog": str(self.catalog), **given})
        return service.plan() if check else service.converge()

    def image(self, check: bool = False, **given: Any) -> Any:
        return self.run("image", check, **{"name": "x", "datastore": "several", "type": "os", **given})

    def tree(self) -> dict[str, tuple[int, ...]]:
        """Return the size and the modification time of all files in the datastores."""
        found = sorted(self.small.rglob("*"))
        return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in found if path.is_file()}

    def refused(self, module: str = "image", **given: Any) -> str:
        """Return the error message of both modes, which must leave all files unchanged."""
        before = self.tree()
        if module == "image":
            given = {"name": "x", "datastore": "several", "type": "os", **given}
        messages = []
        for check in (True, False):
            with pytest.raises(VmstoreError) as caught:
                self.run(module, check, **given)
            messages.append(str(caught.value))
            assert self.tree() == before
        # The allocated size of a file is known only approximately.
        planned, done = (re.sub(r"but \d+ MiB, which", "but N MiB, which", message) for message in messages)
        assert planned == done
        return done

    def accepted(self, **given: Any) -> str:
        """Create the image ``x`` in both modes with the same actions and warnings, and return its path."""
        before = self.tree()
        check = self.image(True, **given)
        assert self.tree() == before
        done = self.image(False, **given)
        assert (check.as_result(), check.warnings) == (done.as_result(), done.warnings)
        return done.result["image"]["path"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tests", small], check=True)
    yield Store(tmp_path)
    subprocess.run(["umount", small], check=True)


@pytest.fixture
def url(store: Store) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_args: object) -> None:
            """Keep the server's log out of pytest's output."""

        def copyfile(self, *files: Any) -> None:
            try:
                super().copyfile(*files)
            except (BrokenPipeError, ConnectionResetError):
                pass  # a preview disconnects early

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(store.files)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def encrypt(store: Store, name: str = "secret.qcow2") -> Path:
    path = store.files / name
    qemu_img(
        "create",
        "-f",
        "qcow2",
        "--object",
        "secret,id=key,data=abc",
        "-o",
        "encrypt.format=aes,encrypt.key-secret=key",
        path,
        "1M",
    )
    return path


# Sources


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress], ids=["plain", "gzip", "bzip2"])
@pytest.mark.parametrize("options", [{}, {"datastore": "files", "type": "kernel"}], ids=["os", "kernel"])
def test_a_wrong_checksum(store: Store, pack: Callable[[bytes], bytes], options: dict) -> None:
    path = store.file("x", pack(store.noise(1).read_bytes()))
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    message = store.refused(path=str(path), checksum=f"sha256:{'0' * 64}", **options)
    assert message == f"sha256: '{'0' * 64}' is not accepted: the sha256 of what is at {path} is {found}."
    store.accepted(path=str(path), checksum=f"sha256:{found}", **options)


def test_a_wrong_checksum_of_a_small_file_at_a_url(store: Store, url: str) -> None:
    path = store.noise(1)
    assert "is not accepted: the md5 of what is at" in store.refused(
        url=f"{url}/{path.name}", checksum=f"md5:{'0' * 32}"
    )
    store.accepted(url=f"{url}/{path.name}", checksum=f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("remote", [False, True])
def test_an_image_that_needs_another_file(store: Store, url: str, suffix: str, remote: bool) -> None:
    path = store.files / "over.qcow2"
    qemu_img("create", "-f", "qcow2", "-b", store.noise(1), "-F", "raw", path)
    store.file("over.qcow2.gz", gzip.compress(path.read_bytes()))
    message = store.refused(**({"url": f"{url}/{path.name}{suffix}"} if remote else {"path": f"{path}{suffix}"}))
    assert message.endswith("an image that stands alone is expected, and this qcow2 image has a backing file.")


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("remote", [False, True])
def test_what_has_no_key_is_not_converted(store: Store, url: str, suffix: str, remote: bool) -> None:
    path = encrypt(store)
    store.file(f"{path.name}.gz", gzip.compress(path.read_bytes()))
    source = {"url": f"{url}/{path.name}{suffix}"} if remote else {"path": f"{path}{suffix}"}
    message = store.refused(**source, driver="raw")
    assert message.endswith(
        "to be converted to raw, an image without encryption is expected, because qemu-img has no key; qcow2 keeps it "
        "as it is."
    )
    stored = store.accepted(**source, driver="qcow2")
    assert Path(stored).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("verify", [None, False])
def test_a_raw_disk_at_a_url_that_is_not_whole(store: Store, url: str, verify: bool | None) -> None:
    path = store.files / "short.raw"
    subprocess.run(["truncate", "-s", "20M", path], check=True)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    os.truncate(path, 10 * MIB)
    if verify is None:
        assert "by its ext2/3/4 superblock the disk has 20971520 bytes, of which 10485760 are there" in store.refused(
            url=f"{url}/{path.name}"
        )
    else:
        store.accepted(url=f"{url}/{path.name}", verify=verify)


@pytest.mark.parametrize("name", ["x.qcow2", "x.vmdk", "x.vdi", "x.vhdx", "x.vpc"])
@pytest.mark.parametrize("driver", [None, "raw", "qcow2"])
def test_what_is_converted_is_accepted(store: Store, name: str, driver: str | None) -> None:
    raw = store.noise(1)
    store.accepted(path=str(store.converted(raw, name[2:])), driver=driver)


# Space


@pytest.mark.parametrize(
    "given", [{}, {"driver": "qcow2"}, {"datastore": "files", "type": "kernel"}], ids=["raw", "converted", "file"]
)
def test_a_copy_that_does_not_fit(store: Store, given: dict) -> None:
    assert FULL in store.refused(path=str(store.noise(80)), **given)


def test_holes_need_no_space(store: Store) -> None:
    path = store.noise(1)
    os.truncate(path, 100 * MIB)
    store.accepted(path=str(path))
    assert FULL in store.refused(name="y", path=str(path), sparse=False)


def test_neither_do_zeros_that_become_holes(store: Store) -> None:
    path = store.file("zeros", bytes(510) + b"\x55\xaa" + bytes(80 * MIB))
    store.accepted(path=str(path))
    store.accepted(name="y", path=str(path), driver="qcow2")


@pytest.mark.parametrize("given", [{"driver": "qcow2"}, {"driver": "raw"}])
def test_a_conversion_needs_space_beside_the_copy(store: Store, given: dict) -> None:
    path = store.noise(40)
    path = path if given["driver"] == "qcow2" else store.converted(path, "qcow2")
    message = store.refused(path=str(path), **given)
    assert (
        message == f"Could not convert {path}: {FULL} but N MiB, which a conversion leaves to other users. Nothing was "
        "changed."
    )


def test_a_copy_without_a_conversion_does_not(store: Store) -> None:
    store.accepted(path=str(store.file("40.gz", gzip.compress(store.noise(40).read_bytes(), 0))))


def test_what_is_unpacked_takes_more(store: Store) -> None:
    path = store.file("80.gz", gzip.compress(store.noise(80).read_bytes(), 0))
    assert store.refused(path=str(path)).startswith(f"Could not store {path}: it has more data than the ")
    path = store.file("40.gz", gzip.compress(store.noise(40).read_bytes(), 0))
    assert "which a conversion leaves to other users" in store.refused(path=str(path), driver="qcow2")


def test_a_url_that_does_not_fit(store: Store, url: str) -> None:
    path = store.noise(80)
    assert f"the file has {80 * MIB} bytes, and there is room for {64 * MIB} bytes at most" in store.refused(
        url=f"{url}/{path.name}"
    )


def test_a_file_system_that_compresses_may_have_room(store: Store, tmp_path: Path) -> None:
    """A message about a full disk would be a guess there."""
    disk, point = tmp_path / "disk", tmp_path / "btrfs"
    point.mkdir()
    subprocess.run(["truncate", "-s", "256M", disk], check=True)
    subprocess.run(["mkfs.btrfs", "-q", disk], check=True)
    subprocess.run(["mount", "-o", "loop,compress-force=zstd", disk, point], check=True)
    try:
        with open_catalog(str(store.catalog), create=False) as catalog, catalog.transaction():
            store.datastore("compressing", catalog, str(point / "1"))
        text = store.file("text", bytes(510) + b"\x55\xaa" + b"text " * (80 * MIB))
        store.accepted(path=str(text), datastore="compressing")
    finally:
        subprocess.run(["umount", point], check=True)


def test_where_nothing_can_be_written(store: Store) -> None:
    path = store.noise(1)
    store.accepted(path=str(path))
    subprocess.run(["mount", "-o", "remount,ro", store.small], check=True)
    for given in ({"path": str(path)}, {"size": "1"}, {"clone_from": "x"}):
        assert (
            store.refused(name="y", **given)
            == f"Could not make an image in {store.datastores}/100: Read-only file system."
        )


def test_where_no_directory_can_be_made(store: Store) -> None:
    (store.root / "file").touch()
    with open_catalog(str(store.catalog), create=False) as catalog, catalog.transaction():
        store.datastore("lost", catalog, f"{store.root}/no/such/directory")
        store.datastore("file", catalog, f"{store.root}/file")
    for name, why in (("lost", "No such file or directory"), ("file", "Not a directory")):
        for given in ({"path": str(store.noise(1))}, {"size": "1"}):
            assert store.refused(datastore=name, **given).endswith(f": {why}.")


# Datablocks


@pytest.mark.parametrize(
    ("fs", "size", "why"),
    [
        ("xfs", 299, "mkfs.xfs makes no file system of 299 MiB: Filesystem must be larger than 300MB."),
        (
            "btrfs",
            100,
            "mkfs.btrfs makes no file system of 100 MiB: 'the new image' is too small to make a usable filesystem; "
            "minimum size ",
        ),
        ("f2fs", 10, "mkfs.f2fs makes no file system of 10 MiB: Device size is not sufficient for F2FS volume; "),
        ("ntfs", 10, "mkfs.ntfs makes no file system of 10 MiB: "),
    ],
)
@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_a_file_system_that_is_too_small(store: Store, fs: str, size: int, why: str, image_format: str) -> None:
    assert store.refused(size=str(size), fs=fs, format=image_format, type="datablock").startswith(why)


@pytest.mark.parametrize(("fs", "size"), [("btrfs", 128), ("ext4", 8), ("f2fs", 64), ("vfat", 64), ("swap", 8)])
def test_a_file_system_that_fits(store: Store, fs: str, size: int) -> None:
    stored = store.accepted(size=str(size), fs=fs, type="datablock")
    found = subprocess.run(
        ["blkid", "-p", "-o", "value", "-s", "TYPE", stored], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    assert found == f"{fs}\n"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize(
    "given", [{"fs": "xfs"}, {"sparse": False}, {"fs": "ext4", "sparse": False}], ids=["log", "all", "both"]
)
def test_a_datablock_that_does_not_fit(store: Store, image_format: str, given: dict) -> None:
    message = store.refused(size="320", format=image_format, type="datablock", **given)
    assert message == f"Could not write a datablock: {FULL}. Nothing was changed."


def test_a_disk_that_qcow2_can_not_have(store: Store) -> None:
    message = store.refused(size="10T", format="qcow2", datastore="tiny", type="datablock")
    assert "The image size is too large for file format 'qcow2' (try using a larger cluster size)" in message


def test_a_file_that_is_longer_than_the_file_system_allows(store: Store, tmp_path: Path) -> None:
    disk, point = tmp_path / "disk", tmp_path / "ext4"
    point.mkdir()
    subprocess.run(["truncate", "-s", "64M", disk], check=True)
    subprocess.run(["mkfs.ext4", "-q", "-b", "1024", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, point], check=True)
    try:
        with open_catalog(str(store.catalog), create=False) as catalog, catalog.transaction():
            store.datastore("short", catalog, str(point / "1"))
        message = "Could not write a datablock: File too large."
        assert store.refused(size="30T", datastore="short", type="datablock") == message
        store.accepted(size="1", datastore="short", type="datablock")
        assert "File too large" in store.refused(size="30T", datastore="short", type="datablock")
    finally:
        subprocess.run(["umount", point], check=True)


def test_growth_that_does_not_fit(store: Store) -> None:
    stored = store.accepted(size="10", type="datablock")
    assert (
        store.refused(size="100", type="datablock", sparse=False)
        == f"Could not grow {stored}: {FULL}. Nothing was changed."
    )
    assert store.accepted(size="100", type="datablock") == stored


# Images of a datastore


def test_a_clone_that_does_not_fit(store: Store) -> None:
    stored = store.accepted(path=str(store.noise(40)))
    assert store.refused(name="y", clone_from="x") == f"Could not write an image: {FULL}. Nothing was changed."
    os.truncate(stored, 20 * MIB)
    assert "which a conversion leaves to other users" in store.refused(name="y", clone_from="x", driver="qcow2")


def test_a_clone_of_what_is_damaged(store: Store) -> None:
    stored = store.accepted(path=str(store.converted(store.noise(1), "qcow2")))
    os.truncate(stored, 300_000)
    message = store.refused(name="y", clone_from="x")
    assert message.startswith(f"The image {stored} is damaged: by the tables of this qcow2 image")
    assert message.endswith("; verify: false clones it nevertheless.")
    store.accepted(name="y", clone_from="x", verify=False)


def test_a_clone_without_a_key(store: Store) -> None:
    store.accepted(path=str(encrypt(store)))
    message = store.refused(name="y", clone_from="x", driver="raw")
    assert message.startswith("clone_from: 'x' is not accepted: its data at ")
    store.accepted(name="y", clone_from="x")


def test_a_clone_of_what_somebody_writes_to(store: Store, opened_by_qemu: Callable[..., None]) -> None:
    stored = store.accepted(path=str(store.noise(1)))
    opened_by_qemu(Path(stored), "-f", "raw")
    assert "is open for writing in another program" in store.refused(name="y", clone_from="x")


# Removing a snapshot of a raw image deletes a file, and reverting a qcow2 image creates an empty overlay. Both need no
# space.
@pytest.mark.parametrize(
    ("image_format", "state"),
    [("raw", "flattened"), ("raw", "reverted"), ("qcow2", "absent"), ("qcow2", "flattened")],
)
def test_a_change_of_snapshots_that_does_not_fit(store: Store, image_format: str, state: str) -> None:
    path = store.noise(25)
    image = Path(store.accepted(path=str(path if image_format == "raw" else store.converted(path, "qcow2"))))
    snapshots = Path(f"{image}.snap")
    snapshots.mkdir()
    if image_format == "raw":
        (snapshots / "0").write_bytes(path.read_bytes())
        with image.open("r+b") as file:
            file.write(b"x")
    else:
        (snapshots / snapshots.name).symlink_to(".")
        image.rename(snapshots / "0")
        qemu_img("create", "-f", "qcow2", "-u", "-F", "qcow2", "-b", f"{snapshots.name}/0", snapshots / "1", "25M")
        subprocess.run(["qemu-io", "-f", "qcow2", "-c", "write -q -P 1 0 25M", snapshots / "1"], check=True)
        image.symlink_to(f"{snapshots.name}/1")
    given = {"image": "x", "snapshot": 0, "state": state}
    assert FULL in store.refused("image_snapshot", **given)
    if state != "flattened" or image_format == "raw":
        subprocess.run(["mount", "-o", "remount,size=128m", store.small], check=True)
        assert (
            store.run("image_snapshot", True, **given).as_result()
            == store.run("image_snapshot", False, **given).as_result()
            != []
        )


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_export_that_does_not_fit(store: Store, image_format: str) -> None:
    store.accepted(path=str(store.noise(40)))
    given = {"image": "x", "dest": f"{store.small}/disk", "format": image_format}
    assert FULL in store.refused("image_export", **given)
    subprocess.run(["mount", "-o", "remount,ro", store.small], check=True)
    assert store.refused("image_export", **given) == f"Could not make an image in {store.small}: Read-only file system."


def test_an_export_without_a_key(store: Store) -> None:
    store.accepted(path=str(encrypt(store)))
    assert "encrypt.key-secret" in store.refused("image_export", image="x", dest=f"{store.root}/disk", format="raw")


def test_an_image_that_shares_data_needs_no_space(store: Store, tmp_path: Path) -> None:
    disk, point = tmp_path / "disk", tmp_path / "xfs"
    point.mkdir()
    subprocess.run(["truncate", "-s", "400M", disk], check=True)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, point], check=True)
    try:
        with open_catalog(str(store.catalog), create=False) as catalog, catalog.transaction():
            store.datastore("sharing", catalog, str(point / "1"))
        path = store.noise(200)
        store.accepted(path=str(path), datastore="sharing")
        store.accepted(name="y", clone_from="x", datastore="sharing")
        assert FULL in store.refused(name="z", path=str(path), datastore="sharing")
    finally:
        subprocess.run(["umount", point], check=True)


def test_the_driver_itself_changes_nothing_ahead(store: Store) -> None:
    """Planning doesn't create the directory of a new datastore."""
    driver = FsDriver(Datastore(7, "new", "image", "fs", "ssh", f"{store.small}/7"))
    driver.preview_mkfs(1, "raw", "ext4")
    assert not (store.small / "7").exists()
