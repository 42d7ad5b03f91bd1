# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk of a container image: where it lies in the layers, and hostile layers."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    InvalidInput,
    NoSpace,
    TransferFailed,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.container import unpack
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.local import open_local
from ansible_collections.granary.vmstore.plugins.module_utils._image.container.reference import parse_reference
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from container_images import Layout, make_tar, qcow2_disk, raw_disk, special
from refusal import refused

Unpack = Callable[..., unpack.UnpackedDisk]
#: Marks of overlays: a removed name, and all names of the lower layers.
REMOVED, OPAQUE = ".wh.", ".wh..wh..opq"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "oci")


@pytest.fixture
def extract(layout: Layout, tmp_path: Path) -> Unpack:
    """Return a function that adds an image with layers to the layout, and writes its disk to the file ``disk``."""

    def run(*layers: bytes, path: str | None = None, **how: object) -> unpack.UnpackedDisk:
        layout.add("x", *layers, **how)
        origin = open_local(parse_reference(f"oci:{layout.path}:x"))
        manifest = origin.read_manifest(origin.read_digest(), "amd64")
        (tmp_path / "cache").mkdir(exist_ok=True)
        try:
            with new_image(str(tmp_path / "cache")) as part:
                found = unpack.unpack_disk(origin, manifest, path, part)
                (tmp_path / "disk").unlink(missing_ok=True)
                os.link(tmp_path / "cache" / part.name, tmp_path / "disk")
                return found
        finally:
            assert os.listdir(tmp_path / "cache") == []

    return run


def empty(*names: str) -> list[tuple[str, bytes]]:
    return [(name, b"") for name in names]


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q"], input=data, stdout=subprocess.PIPE, check=True).stdout


@pytest.mark.parametrize(
    ("compress", "kind"),
    [(None, ""), (gzip.compress, "+gzip"), (zstd, "+zstd"), (bz2.compress, "+gzip"), (gzip.compress, "+zstd")],
)
def test_the_only_file_in_the_folder(
    extract: Unpack, tmp_path: Path, compress: Callable[[bytes], bytes] | None, kind: str
) -> None:
    """The compression is detected, as container runtimes do."""
    disk = raw_disk(size=3 << 20)
    found = extract(make_tar(special("./disk/", tarfile.DIRTYPE), ("./disk/a.img", disk)), compress=compress, kind=kind)
    assert found == unpack.UnpackedDisk("/disk/a.img", hashlib.sha256(disk).hexdigest(), "raw", 3 << 20)
    assert (tmp_path / "disk").read_bytes() == disk
    assert (tmp_path / "disk").stat().st_blocks * 512 <= 8192  # zeros are holes


def test_a_qcow2_disk_of_a_sparse_archive(extract: Unpack, tmp_path: Path) -> None:
    (tmp_path / "tree" / "disk").mkdir(parents=True)
    (tmp_path / "tree" / "disk" / "a.qcow2").write_bytes(qcow2_disk(tmp_path))
    tar = ["tar", "-C", tmp_path / "tree", "--format=pax", "--sparse", "-cf", "-", "disk"]
    found = extract(subprocess.run(tar, stdout=subprocess.PIPE, check=True).stdout)
    assert (found.format, found.virtual_size) == ("qcow2", 8 << 20)
    subprocess.run(["cmp", tmp_path / "disk", tmp_path / "tree" / "disk" / "a.qcow2"], check=True)


A, B = ("disk/a.img", raw_disk(1)), ("disk/b.img", raw_disk(2))


@pytest.mark.parametrize(
    ("layers", "path", "name", "number"),
    [
        ([[A], [("etc/passwd", b"")]], None, "/disk/a.img", 1),
        ([[A], [("disk/a.img", raw_disk(2))]], None, "/disk/a.img", 2),
        ([[A], [B, *empty(f"disk/{REMOVED}a.img")]], None, "/disk/b.img", 2),
        ([[A], [*empty(f"disk/{OPAQUE}"), B]], None, "/disk/b.img", 2),
        ([[A], [B, *empty(f"{REMOVED}disk")]], None, "/disk/b.img", 2),
        ([[A], [B, *empty(OPAQUE)]], None, "/disk/b.img", 2),
        ([[A], empty(f"disk/{REMOVED}x", f"etc/{REMOVED}disk", f"etc/{OPAQUE}")], None, "/disk/a.img", 1),
        ([[A], empty("disk/.wh..wh.plnk")], None, "/disk/a.img", 1),
        ([[A, B]], "/disk/b.img", "/disk/b.img", 2),
        ([[("x.img", raw_disk(3)), A]], "/x.img", "/x.img", 3),
        ([[("a/b/c", raw_disk(3)), ("b/c", b""), ("a/b/d", b"")], [A]], "/a/b/c", "/a/b/c", 3),
        ([[("a/b/c", raw_disk(3))], [("a/b/c", raw_disk(4))]], "/a/b/c", "/a/b/c", 4),
        # A lower layer that can't have the disk isn't read.
        ([[special("a", tarfile.SYMTYPE, "/")], [("a/b", raw_disk(3))]], "/a/b", "/a/b", 3),
    ],
)
def test_higher_layers_hide_lower_ones(
    extract: Unpack, tmp_path: Path, layers: list[list[tuple[str, bytes]]], path: str | None, name: str, number: int
) -> None:
    assert extract(*(make_tar(*layer) for layer in layers), path=path).name == name
    assert (tmp_path / "disk").read_bytes() == raw_disk(number)


@pytest.mark.parametrize(
    ("layers", "path"),
    [
        ([[("etc/passwd", b"")]], None),
        ([[special("disk/", tarfile.DIRTYPE)]], None),
        ([[A], empty(f"disk/{REMOVED}a.img")], None),
        ([[A], empty(f"{REMOVED}disk")], None),
        ([[A]], "/disk/b.img"),
        ([[A]], "/a.img"),
        ([[A], empty(f"disk/{REMOVED}a.img")], "/disk/a.img"),
        ([[("a/b/c", raw_disk())], empty(f"a/{OPAQUE}")], "/a/b/c"),
    ],
)
def test_no_disk(extract: Unpack, layers: list[list[tuple[str, bytes]]], path: str | None) -> None:
    with refused(InvalidInput, option="path" if path else "image", names=[path or "/disk"]):
        extract(*(make_tar(*layer) for layer in layers), path=path)


@pytest.mark.parametrize(
    "layers",
    [
        [[A, B]],
        [[A, A]],
        [[A], [B]],
        [[A, special("disk/lost+found", tarfile.DIRTYPE)]],
        [[A, ("disk/more/b.img", b"")]],
    ],
)
def test_more_than_one_file_in_the_folder(extract: Unpack, layers: list[list[tuple[str, bytes]]]) -> None:
    with refused(InvalidInput, option="image"):
        extract(*(make_tar(*layer) for layer in layers))


@pytest.mark.parametrize(
    "entries",
    [
        *([(name, raw_disk())] for name in ("../disk/a.img", "disk/../a.img", "/disk/a.img", "disk/a.img/..")),
        [A, ("x/../../etc/cron.d/x", b"")],
        [A, ("/etc/passwd", b"")],
        [special("disk/a.img", tarfile.SYMTYPE, "../../etc/shadow")],
        [special("disk/a.img", tarfile.LNKTYPE, "etc/shadow")],
        [special("disk/a.img", tarfile.BLKTYPE)],
        [special("disk/a.img", tarfile.CHRTYPE)],
        [special("disk/a.img", tarfile.FIFOTYPE)],
        [special("disk", tarfile.SYMTYPE, "/etc"), ("disk/passwd", raw_disk())],
        [("disk", raw_disk())],
        [("disk/" + "a" * 5000, raw_disk())],
        [("disk/a\n", raw_disk())],
        [("disk/\udcff", raw_disk())],
        empty(*(f"disk/{REMOVED}{number}" for number in range(10_001))),
    ],
)
def test_hostile_names_and_types(extract: Unpack, entries: list[tuple[str, bytes]]) -> None:
    with refused(InvalidInput, option="image"):
        extract(make_tar(*entries))


def test_the_sentences_about_layers(extract: Unpack, layout: Layout) -> None:
    name = f"oci:{layout.path}:x"
    for entries, says in [
        ([A, B], "one file is expected in /disk, and there is more than one: '/disk/a.img' and '/disk/b.img'"),
        (
            [special("disk/a.img", tarfile.BLKTYPE)],
            "a regular file is expected, and '/disk/a.img' is a device",
        ),
        ([special("disk", tarfile.SYMTYPE, "/")], "a directory is expected at /disk, and it is a symbolic link"),
        (
            [("disk/\t", raw_disk())],
            "a name in UTF-8 without control characters is expected, and it is '/disk/\\t'",
        ),
        ([("../a", b"")], "names inside the image are expected, and a layer has '../a'"),
        (
            [("etc/passwd", b"")],
            f"an image with one disk is expected, and there is no file in the folder /disk of {name}",
        ),
        (
            empty(*(f"disk/{REMOVED}{number}" for number in range(10_001))),
            "a layer that removes at most 10000 files of a directory is expected",
        ),
    ]:
        with refused(InvalidInput, says=f"image: '{name}' is not accepted: {says}."):
            extract(make_tar(*entries))


def test_bombs(extract: Unpack, tmpfs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system of the cache has 64 MiB, a disk more of zeros, of data, or of holes."""
    (tmp_path / "cache").symlink_to(tmpfs)
    with refused(InvalidInput, option="image", names=["67108864"]):
        extract(make_tar(("disk/a.img", raw_disk(size=65 << 20))))
    with refused(NoSpace):
        extract(make_tar(("disk/a.img", b"\x01" * (63 << 20))))
    (tmp_path / "tree" / "disk").mkdir(parents=True)
    (tmp_path / "tree" / "disk" / "a").touch()
    os.truncate(tmp_path / "tree" / "disk" / "a", 1 << 43)
    tar = ["tar", "-C", tmp_path / "tree", "--sparse", "-cf", "-", "disk"]
    with refused(InvalidInput, option="image", names=["67108864"]):
        extract(subprocess.run(tar, stdout=subprocess.PIPE, check=True).stdout)
    monkeypatch.setattr(unpack, "MOST_BESIDE", 1 << 20)
    for layers in ([[A, ("x", bytes(1 << 20))]], [[("x", bytes(700_000))], [("x", bytes(700_000)), A]]):
        with refused(InvalidInput, option="image", names=["1048576"]):
            extract(*(make_tar(*layer) for layer in layers))
    with refused(InvalidInput, option="image", names=["1048576"]):
        extract(make_tar(A) + bytes(2 << 20))
    monkeypatch.setattr(unpack, "MOST_ENTRIES", 10)
    with refused(InvalidInput, option="image", names=["10 entries"]):
        extract(make_tar(*empty(*map(str, range(11)))))
    with refused(InvalidInput, option="image", names=["4 entries"]):  # those of all layers count
        extract(make_tar(*empty(*map(str, range(5)))), make_tar(*empty(*map(str, range(6)))))


def test_layers_that_are_no_archive_or_damaged(extract: Unpack) -> None:
    whole = make_tar(A)
    for layer, how in [
        (b"<html>" * 200, {}),
        (whole[:3000], {}),
        (b"", {}),
        (whole, {"compress": lambda data: gzip.compress(data)[:-20]}),
        (whole, {"compress": lambda data: gzip.compress(gzip.compress(data))}),
    ]:
        with refused(InvalidInput, option="image"):
            extract(layer, **how)


def test_disks_that_are_refused(extract: Unpack, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(raw_disk())
    qcow2 = qcow2_disk(tmp_path)
    vmdk = tmp_path / "vmdk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "vmdk", vmdk, "1M"], check=True)
    external = qcow2_disk(tmp_path, "-o", f"data_file={tmp_path}/data")
    for disk, why in [
        (qcow2_disk(tmp_path, "-b", str(tmp_path / "base"), "-F", "raw"), "has a backing file"),
        (external, "has an external data file"),
        (qcow2[:70_000], None),
        (vmdk.read_bytes(), "vmdk"),
        (gzip.compress(raw_disk()), "gzip"),
        (make_tar(A), "tar"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"", None),
    ]:
        with refused(InvalidInput, option="image", names=[why] if why else ["/disk/a"]):
            extract(make_tar(("disk/a", disk)))


def test_digests_and_sizes_are_verified(extract: Unpack, layout: Layout, tmp_path: Path) -> None:
    extract(make_tar(A), compress=None)
    content = json.loads((layout.path / "index.json").read_text())["manifests"][0]["digest"]
    manifest = layout.path / "blobs" / content.replace(":", "/")
    (layer,) = json.loads(manifest.read_text())["layers"]
    file = layout.path / "blobs" / layer["digest"].replace(":", "/")
    whole = file.read_bytes()
    origin = open_local(parse_reference(f"oci:{layout.path}:x"))
    found = origin.read_manifest(origin.read_digest(), "amd64")
    for content, names in [
        (whole[:-1] + b"\x01", [layer["digest"]]),
        (whole[:-512], [layer["digest"], str(len(whole))]),
        (whole + b"\0", [layer["digest"], str(len(whole))]),
    ]:
        file.write_bytes(content)
        with new_image(str(tmp_path / "cache")) as part, refused(TransferFailed, names=names):
            unpack.unpack_disk(origin, found, None, part)
    manifest.write_bytes(manifest.read_bytes() + b" ")
    with refused(TransferFailed, names=[origin.read_digest()]):
        origin.read_manifest(origin.read_digest(), "amd64")
