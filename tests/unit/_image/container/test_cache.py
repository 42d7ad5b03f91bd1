# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache of container disks: policies, shared disks, programs that write to a disk, and killed runs."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    FileAccessFailed,
    InvalidInput,
    NotFound,
    PathNotAllowed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.cache import (
    ALWAYS,
    IF_NOT_PRESENT,
    NEVER,
    ContainerDiskCache,
    DiskRequest,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import parse_reference
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.store import (
    CachedDisk,
    DiskStore,
)
from container_images import Layout, compress_gzip, make_tar, qcow2_disk, raw_disk
from refusal import refused


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "oci")


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(str(tmp_path / "cache"))


@pytest.fixture
def cache(store: DiskStore) -> ContainerDiskCache:
    return ContainerDiskCache(store)


def request(layout: Layout, tag: str = "x", **how: object) -> DiskRequest:
    return DiskRequest(parse_reference(f"oci:{layout.path}:{tag}"), **how)


def one_disk(number: int = 1) -> bytes:
    return make_tar(("disk/a.img", raw_disk(number)))


def names_of(store: DiskStore) -> list[tuple[str, ...]]:
    return [one.names for one in store.read_records()]


def file_of(store: DiskStore, disk: CachedDisk) -> Path:
    return Path(store.file(disk.checksum))


def forget(layout: Layout) -> None:
    """Remove all layers and documents, so that nothing can be pulled."""
    shutil.rmtree(layout.path / "blobs")


def test_a_disk_is_pulled_once_and_belongs_to_root(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    digest = layout.add("x", one_disk())
    assert cache.look(request(layout)).disk is None
    assert not os.path.exists(store.directory)
    disk = cache.obtain(request(layout))
    assert (disk.digest, disk.disk, disk.format, disk.virtual_size) == (digest, "/disk/a.img", "raw", 1 << 20)
    found = file_of(store, disk).stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (0, 0, 0o444)
    assert file_of(store, disk).read_bytes() == raw_disk()
    assert oct(os.stat(store.disks).st_mode) == oct(stat.S_IFDIR | 0o755)
    shutil.rmtree(layout.path / "blobs")
    assert cache.look(request(layout)).disk == disk
    assert cache.obtain(request(layout)) == disk


def test_the_policies(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    with refused(
        NotFound,
        says=f"The cache {store.directory} has no sound disk of oci:{layout.path}:x, and image_pull_policy is Never.",
    ):
        cache.look(request(layout, policy=NEVER))
    first = layout.add("x", one_disk(1))
    assert cache.obtain(request(layout, policy=IF_NOT_PRESENT)).digest == first
    second = layout.add("x", one_disk(2))
    for policy, digest in [(IF_NOT_PRESENT, first), (NEVER, first), (ALWAYS, second), (None, second)]:
        assert cache.look(request(layout, policy=policy)).digest == digest
    assert cache.obtain(request(layout)).digest == second
    # The former disk stays for its users, without a name.
    assert sorted(names_of(store)) == [(), (f"oci:{layout.path}:x",)]
    forget(layout)
    (layout.path / "index.json").unlink()
    for policy in (IF_NOT_PRESENT, NEVER):
        assert cache.obtain(request(layout, policy=policy)).digest == second


@pytest.mark.parametrize(
    ("name", "policy"),
    [
        *(("r.example/a", ALWAYS), ("r.example/a:latest", ALWAYS), ("r.example/a:v1", IF_NOT_PRESENT)),
        *((f"r.example/a{tag}@sha256:" + "0" * 64, IF_NOT_PRESENT) for tag in ("", ":latest")),
    ],
)
def test_the_default_policy_is_that_of_kubevirt(name: str, policy: str) -> None:
    assert DiskRequest(parse_reference(name)).effective_policy == policy


def test_images_with_the_same_layers_are_not_pulled_again(
    cache: ContainerDiskCache, store: DiskStore, layout: Layout
) -> None:
    """The second image has another configuration, and the third one other layers with the same disk."""
    layout.add("x", one_disk())
    first = cache.obtain(request(layout))
    layout.index("y", {"amd64": layout.manifest([one_disk()], "arm64", compress_gzip)}, single=True)
    for blob in (layout.path / "blobs" / "sha256").iterdir():
        if blob.read_bytes().startswith(b"\x1f\x8b"):  # a layer
            blob.unlink()
    second = cache.obtain(request(layout, "y"))
    assert (second.layers, second.checksum) == (first.layers, first.checksum)
    assert second.digest != first.digest
    layout.add("z", one_disk(), make_tar(("etc/x", b"")))
    third = cache.obtain(request(layout, "z"))
    assert third.checksum == first.checksum and third.layers != first.layers
    assert store.list_disks() == [first.checksum]


def test_another_name_of_the_same_image(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    digest = layout.add("x", one_disk())
    layout.add("y", one_disk())
    cache.obtain(request(layout))
    forget(layout)
    outlook = cache.look(request(layout, "y"))
    assert (outlook.digest, outlook.is_moved) == (digest, True)
    cache.obtain(request(layout, "y"), outlook)
    assert names_of(store) == [tuple(f"oci:{layout.path}:{tag}" for tag in ("x", "y"))]
    assert not cache.look(request(layout, "y")).is_moved


def test_variants_of_an_image(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    layers = {name: make_tar(("disk/a", raw_disk(number))) for number, name in enumerate(("amd64", "arm64"), 1)}
    layout.index("x", {name: layout.manifest([layer], name) for name, layer in layers.items()})
    layout.add("two", make_tar(("a/b", raw_disk(3)), ("a/c", raw_disk(4))))
    numbers = [
        file_of(store, cache.obtain(one)).read_bytes()[3]
        for one in (
            request(layout, architecture="amd64"),
            request(layout, architecture="arm64"),
            request(layout, "two", path="/a/b"),
            request(layout, "two", path="/a/c"),
        )
    ]
    assert numbers == [1, 2, 3, 4]
    assert len(store.read_records()) == len(store.list_disks()) == 4
    with refused(InvalidInput, option="image"):
        cache.obtain(request(layout, "two"))


def test_a_disk_of_the_user_of_qemu_is_verified(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    """libvirt gives backing files to QEMU, which can then write to them."""
    layout.add("x", one_disk())
    disk = cache.obtain(request(layout))
    file = file_of(store, disk)
    os.chown(file, 64055, 108)
    outlook = cache.look(request(layout))
    assert (outlook.disk, outlook.is_loose) == (disk, True)
    with file.open("r+b") as writing:
        assert cache.obtain(request(layout), outlook) == disk
        assert (file.stat().st_uid, cache.look(request(layout)).is_loose) == (0, False)
        # A program that has opened the file before can still write, which is noticed.
        writing.write(b"\0")
        writing.flush()
        assert cache.look(request(layout)).disk is None
    assert cache.obtain(request(layout)) == disk
    assert file.read_bytes() == raw_disk()


@pytest.mark.parametrize("damage", ["remove", "shorten", "change"])
def test_a_damaged_disk_is_pulled_again(
    cache: ContainerDiskCache, store: DiskStore, layout: Layout, damage: str
) -> None:
    layout.add("x", one_disk())
    file = file_of(store, cache.obtain(request(layout)))
    if damage == "remove":
        file.unlink()
    else:
        with file.open("r+b") as writing:
            writing.truncate(1000) if damage == "shorten" else writing.write(b"x")
    assert cache.look(request(layout)).disk is None
    with refused(NotFound):
        cache.look(request(layout, policy=NEVER))
    cache.obtain(request(layout, policy=IF_NOT_PRESENT))
    assert file.read_bytes() == raw_disk()


def test_a_damaged_disk_is_not_present(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    """The registry may have removed the image that the name stood for."""
    layout.add("x", one_disk(1))
    file_of(store, cache.obtain(request(layout))).unlink()
    digest = layout.add("x", one_disk(2))
    assert cache.obtain(request(layout, policy=IF_NOT_PRESENT)).digest == digest


def test_the_part_of_a_killed_run_is_removed(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    layout.add("x", one_disk())
    disk = cache.obtain(request(layout))
    Path(store.disks, f".{'0' * 32}.part").touch()
    cache.obtain(request(layout))
    assert os.listdir(store.disks) == [disk.checksum]


def test_damaged_records_count_as_missing(cache: ContainerDiskCache, store: DiskStore, layout: Layout) -> None:
    layout.add("x", one_disk())
    disk = cache.obtain(request(layout))
    (record,) = (Path(store.directory) / "records").iterdir()
    whole = json.loads(record.read_text())
    for content in ("", "{", "[]", json.dumps({**whole, "size": "1"}), json.dumps({**whole, "more": 1})):
        record.write_text(content)
        assert store.read_records() == []
    assert cache.obtain(request(layout)).checksum == disk.checksum
    assert json.loads(record.read_text()).keys() == whole.keys()


def test_a_directory_that_others_can_change_is_refused(layout: Layout, tmp_path: Path, tenant: Path) -> None:
    layout.add("x", one_disk())
    os.chmod(tmp_path, 0o777)
    for directory in (tenant / "cache", tmp_path / "cache"):
        with refused(PathNotAllowed, option="directory", value=str(directory)):
            ContainerDiskCache(DiskStore(str(directory))).look(request(layout))


#: Functions of the operating system that change files.
CHANGES = ("fchmod", "fchown", "fsync", "ftruncate", "mkdir", "pwrite", "rename", "unlink", "utime")


def kill_at(number: int, work: Callable[[], object]) -> bool:
    """Run ``work`` in a child process, and kill the child before its change with a number. Return whether the child was
    killed.
    """
    pid = os.fork()
    if pid == 0:
        left = [number]

        def wrap(function: Callable[..., object]) -> Callable[..., object]:
            def called(*arguments: object, **options: object) -> object:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return function(*arguments, **options)

            return called

        for name in CHANGES:
            setattr(os, name, wrap(getattr(os, name)))
        with contextlib.suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    _pid, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def test_a_killed_run_leaves_no_half_disk(
    cache: ContainerDiskCache, store: DiskStore, layout: Layout, tmp_path: Path
) -> None:
    layout.add("x", make_tar(("disk/a.qcow2", qcow2_disk(tmp_path))))
    for number in itertools.count():
        shutil.rmtree(store.directory, ignore_errors=True)
        is_killed = kill_at(number, lambda: cache.obtain(request(layout)))
        for checksum in store.list_disks():
            assert hashlib.sha256(Path(store.file(checksum)).read_bytes()).hexdigest() == checksum
        for disk in store.read_records():
            assert cache.look(request(layout)).disk == disk
        disk = cache.obtain(request(layout))
        assert os.listdir(store.disks) == [disk.checksum]
        assert len(os.listdir(Path(store.directory) / "records")) == 1
        if not is_killed:
            break
    assert number > 15
    subprocess.run(["qemu-img", "check", "-q", store.file(disk.checksum)], check=True)


def test_a_file_in_place_of_the_directory(layout: Layout, store: DiskStore) -> None:
    layout.add("x", one_disk())
    Path(store.directory).touch()
    with refused(FileAccessFailed, names=[store.directory]):
        ContainerDiskCache(store).obtain(request(layout))
