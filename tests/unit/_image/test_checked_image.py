# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of qemu's formats: whole ones are accepted, cut, damaged and hostile ones refused.

qemu-img determines the data that a cut removes.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._image import checked_image as checks
from ansible_collections.granary.vmstore.plugins.module_utils._image import qcow2_tables
from ansible_collections.granary.vmstore.plugins.module_utils._image import qemu_img as qemu_img_command
from ansible_collections.granary.vmstore.plugins.module_utils._image.checked_image import CheckedImage
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_file import opened_file
from refusal import refused

MIB = 1 << 20
TIB = 1 << 40
CLUSTER = 65536


def check(path: Path, **options: object) -> tuple[CheckedImage, tuple[str, ...]]:
    with opened_file(str(path)) as descriptor:
        return checks.check_image(descriptor, path=str(path), **options)


def qemu(program: str, *arguments: object) -> str:
    if shutil.which(program) is None:
        pytest.fail(f"{program} is missing: install the package qemu-utils")
    return subprocess.run([program, *map(str, arguments)], check=True, stdout=subprocess.PIPE, text=True).stdout


def create(path: Path, image_format: str, size: int, options: str = "") -> Path:
    qemu("qemu-img", "create", "-q", "-f", image_format, *(["-o", options] if options else []), path, size)
    return path


def patch(path: Path, offset: int, data: bytes) -> Path:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return path


def image_of(path: Path, data: bytes, image_format: str, options: str = "") -> Path:
    raw = path.with_suffix(".raw")
    raw.write_bytes(data)
    compressed = ["-c"] if options.endswith(" -c") else []
    options = options.removesuffix(" -c").strip()
    qemu(
        "qemu-img",
        "convert",
        "-f",
        "raw",
        "-O",
        image_format,
        *(["-o", options] if options else []),
        *compressed,
        raw,
        path,
    )
    return path


def content(path: Path, image_format: str) -> bytes | None:
    """Return the data that qemu-img reads, and nothing on an error."""
    target = path.with_suffix(".content")
    done = subprocess.run(
        ["qemu-img", "convert", "-f", image_format, "-O", "raw", path, target], stderr=subprocess.DEVNULL, check=False
    )
    return target.read_bytes() if done.returncode == 0 else None


def noise(size: int, seed: object) -> bytes:
    """Return random bytes other than zero, with a hole of zeros in the middle."""
    data = bytearray(random.Random(str(seed)).randbytes(size).replace(b"\0", b"\1"))
    data[size // 2 // 512 * 512 : size // 2 // 512 * 512 + 128 * 1024] = bytes(128 * 1024)
    return bytes(data[:size])


#: Format and options of qemu-img convert. Options with -c compress the data.
VARIANTS = [
    ("qcow2", ""),
    ("qcow2", "compat=0.10"),
    ("qcow2", "cluster_size=512"),
    ("qcow2", "cluster_size=2M"),
    ("qcow2", "extended_l2=on"),
    ("qcow2", "cluster_size=2M,extended_l2=on"),
    ("qcow2", "preallocation=metadata"),
    ("qcow2", "preallocation=falloc,lazy_refcounts=on"),
    ("qcow2", "preallocation=metadata,extended_l2=on"),
    ("qcow2", "refcount_bits=1"),
    ("qcow2", " -c"),
    ("qcow2", "compression_type=zstd -c"),
    ("qcow2", "cluster_size=512 -c"),
    ("vmdk", ""),
    ("vmdk", "zeroed_grain=on"),
    ("vmdk", "subformat=streamOptimized"),
    ("vdi", ""),
    ("vdi", "static=on"),
    ("vhdx", ""),
    ("vhdx", "subformat=fixed"),
    ("vhdx", "block_size=1M"),
    ("vpc", ""),
    ("vpc", "force_size=on"),
]


@pytest.mark.parametrize("size", [MIB, 3 * MIB - 12800])
@pytest.mark.parametrize(("image_format", "options"), VARIANTS)
def test_an_image_is_refused_if_and_only_if_its_end_is_missing(
    tmp_path: Path, image_format: str, options: str, size: int
) -> None:
    path = image_of(tmp_path / "image", noise(size, options), image_format, options)
    image, warnings = check(path)
    assert (image.format, image.flaws, warnings) == (image_format, [], ())
    whole, data = path.read_bytes(), content(path, image_format)
    choose = random.Random(image_format + options)
    ends = {len(whole) - behind for behind in (1, 511, 512, 513, 4096, 65536, 65537, MIB)} | {
        len(whole) // 2,
        len(whole) // 3,
    }
    ends |= {choose.randrange(len(whole)) // step * step for step in (1, 512, 65536) for _number in range(5)}
    for end in sorted(ends):
        if end < CLUSTER // 2:  # too short to recognise the format
            continue
        path.write_bytes(whole[:end])
        if content(path, image_format) != data:
            with pytest.raises(InvalidInput):
                check(path)


@pytest.mark.parametrize(
    "options", ["", "extended_l2=on", "cluster_size=2M,extended_l2=on", "cluster_size=512", "preallocation=metadata"]
)
def test_what_a_guest_cannot_read_may_be_missing(tmp_path: Path, options: str) -> None:
    """A cluster can reach beyond the end of the disk, or have subclusters without storage at its end. qemu ends files
    at this place.
    """
    path = create(tmp_path / "image", "qcow2", 10 * MIB + 1536, options)
    qemu("qemu-io", "-f", "qcow2", "-c", f"write -q {10 * MIB} 1536", path)
    assert not check(path)[1]
    length, data = path.stat().st_size, content(path, "qcow2")
    told = json.loads(qemu("qemu-img", "map", "-f", "qcow2", "--output=json", path))
    end = max(extent["offset"] + extent["length"] for extent in told if extent["data"])
    assert end <= length
    os.truncate(path, end)
    assert content(path, "qcow2") == data
    assert not check(path)[1]
    os.truncate(path, end - 1)
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a whole, sound image is expected, and by the tables of "
        f"this qcow2 image the file has * bytes at least, of which {end - 1} are there; verify: "
        "false stores it nevertheless.",
    ):
        check(path)


@pytest.mark.parametrize("options", ["", "compression_type=zstd"])
def test_a_file_may_end_with_the_last_byte_of_compressed_data(tmp_path: Path, options: str) -> None:
    path = create(tmp_path / "image", "qcow2", MIB, options)
    (tmp_path / "pattern").write_bytes(bytes(random.Random(0).choices(b"abcdefgh", k=CLUSTER)))
    qemu("qemu-io", "-f", "qcow2", "-c", f"write -q -c -s {tmp_path}/pattern 0 64k", path)
    assert path.stat().st_size % 512
    assert not check(path)[1]
    os.truncate(path, path.stat().st_size - 4)  # the last byte of deflate may be only its end mark
    with refused(
        InvalidInput,
        option="path",
        value=str(path),
        names=["qcow2", "verify: false"],
    ):
        check(path)


OPERATIONS = ["write -q", "write -q -P 0", "write -q -z", "write -q -z -u", "discard -q"]


@pytest.mark.parametrize(
    ("image_format", "options"), [one for one in VARIANTS if not one[1].endswith("-c") and "stream" not in one[1]]
)
def test_what_qemu_writes_is_whole(tmp_path: Path, image_format: str, options: str) -> None:
    choose = random.Random(image_format + options)
    for number in range(4):
        size = choose.choice([512 * choose.randrange(8, 40000), choose.randrange(1, 40) << 20])
        path = create(tmp_path / str(number), image_format, size, options)
        commands = []
        for _operation in range(choose.randrange(6)):
            length = min(choose.choice([512, 4096, 65536, MIB, 3 * MIB]), size)
            start = choose.choice([choose.randrange(size - length + 1) // 512 * 512, size - length])
            commands += ["-c", f"{choose.choice(OPERATIONS)} {start} {length}"]
        subprocess.run(
            ["qemu-io", "-f", image_format, "-d", "unmap", *commands, path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if image_format == "qcow2":
            qemu("qemu-img", "resize", "-q", "-f", "qcow2", path, size + MIB)
        assert not check(path)[1], commands


def stream_optimized_of_vmware(path: Path) -> Path:
    """Create an image like those of other programs than qemu: the header at the beginning refers to the footer."""
    image_of(path, noise(2 * MIB, path), "vmdk", "subformat=streamOptimized")
    header = path.read_bytes()[:512]
    footer = struct.pack("<QII496x", 1, 0, 3) + header + bytes(512)
    with open(path, "ab") as file:
        file.write(bytes(-path.stat().st_size % 512) + footer)
    return patch(path, 56, b"\xff" * 8)


def test_a_vmdk_with_a_header_at_its_end(tmp_path: Path) -> None:
    path = stream_optimized_of_vmware(tmp_path / "image")
    assert qemu("qemu-img", "info", "-f", "vmdk", path)
    assert not check(path)[1]
    for cut in (1, 512, 1024, 65536):
        os.truncate(path, path.stat().st_size - cut)
        with refused(
            InvalidInput,
            says=f"path: '{path}' is not accepted: an image that stands alone is expected, and this vmdk "
            "image is not whole: the header at its end is missing.",
        ):
            check(path)


def test_a_vhd_without_its_footer(tmp_path: Path) -> None:
    path = image_of(tmp_path / "image", noise(MIB, "vhd"), "vpc")
    os.truncate(path, path.stat().st_size - 2)
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a whole, sound image is expected, and by the tables of "
        "this vpc image the file has * bytes at least, of which * are there; verify: false "
        "stores it nevertheless.",
    ):
        check(path)


# Storing despite damage


def test_a_cut_image_is_stored_with_a_warning(tmp_path: Path) -> None:
    path = image_of(tmp_path / "image", noise(MIB, "warning"), "qcow2")
    length = path.stat().st_size
    os.truncate(path, length - 100)
    sentence = (
        f"by the tables of this qcow2 image the file has {length} bytes at least, of which {length - 100} are there"
    )
    with refused(InvalidInput, option="path", value=str(path), names=[length, length - 100]):
        check(path)
    assert check(path, verify=False)[1] == (f"{path} is stored because verify is false, but {sentence}.",)
    assert check(path, verify=None)[1] == ()
    os.truncate(path, CLUSTER)  # all tables are missing
    assert len(check(path, verify=False)[1]) == 1


# Damaged images


def refused_or_warned(path: Path, why: str) -> None:
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a whole, sound image is expected, and {why} (qemu-img "
        "check -r all repairs *); verify: false stores it nevertheless.",
    ):
        check(path)
    (warning,) = check(path, verify=False)[1]
    assert why in warning


def test_an_image_that_is_marked_as_corrupt(tmp_path: Path) -> None:
    refused_or_warned(patch(create(tmp_path / "image", "qcow2", MIB), 79, b"\2"), "it is marked as corrupt")


def test_reference_counts(tmp_path: Path) -> None:
    """A used cluster that counts as free can be overwritten by the next allocation. A free cluster that counts as used
    only takes space.
    """
    path = image_of(tmp_path / "image", noise(MIB, "counts"), "qcow2")
    blocks = struct.unpack(">Q", path.read_bytes()[CLUSTER : CLUSTER + 8])[0]
    whole = path.read_bytes()
    patch(path, blocks + 2 * 5, b"\0\0")
    refused_or_warned(path, "qemu-img check finds 2 errors in it")
    path.write_bytes(whole)
    patch(path, blocks + 2 * 100, b"\0\1")
    with open(path, "ab") as file:
        file.truncate(101 * CLUSTER)
    assert subprocess.run(["qemu-img", "check", "-q", path], check=False, stderr=subprocess.DEVNULL).returncode == 3
    assert not check(path)[1]


def test_a_dirty_image_is_not_judged_by_its_counts(tmp_path: Path) -> None:
    path = create(tmp_path / "image", "qcow2", 10 * MIB, "lazy_refcounts=on")
    commands = ("-c", "write -q 0 1M", "-c", "flush", "-c", "abort")
    assert (
        subprocess.run(["qemu-io", "-f", "qcow2", *commands, path], check=False, stderr=subprocess.DEVNULL).returncode
        < 0
    )
    assert path.read_bytes()[79] & 1
    assert subprocess.run(["qemu-img", "check", "-q", path], check=False, stderr=subprocess.DEVNULL).returncode == 2
    assert not check(path)[1]


def test_an_encrypted_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    secret = ["--object", "secret,id=key,data=abc", "-o", "encrypt.format=aes,encrypt.key-secret=key"]
    qemu("qemu-img", "create", "-q", "-f", "qcow2", *secret, path, MIB)
    image, warnings = check(path)
    assert image.is_encrypted
    assert not warnings


# Hostile images


def shared_qcow2(path: Path) -> Path:
    """Create 1 TiB in 400 KB: all entries of the first table refer to one table, whose entries refer to one cluster."""
    create(path, "qcow2", TIB)
    table = struct.unpack(">Q", path.read_bytes()[40:48])[0]
    entry = struct.pack(">Q", 5 * CLUSTER | 1 << 63)
    patch(patch(path, 4 * CLUSTER, entry * (CLUSTER // 8)), 5 * CLUSTER, b"x" * CLUSTER)
    return patch(path, table, struct.pack(">Q", 4 * CLUSTER | 1 << 63) * (TIB // CLUSTER // (CLUSTER // 8)))


def shared_compressed(path: Path) -> Path:
    """Create the same image with one compressed cluster."""
    image_of(path, b"x" * CLUSTER, "qcow2", " -c")
    whole = path.read_bytes()
    table = struct.unpack(">Q", whole[40:48])[0]
    entries = struct.unpack(">Q", whole[table : table + 8])[0] & ((1 << 56) - 1)
    length = -(-len(whole) // CLUSTER) * CLUSTER
    os.truncate(path, length)
    patch(path, entries, whole[entries : entries + 8] * (CLUSTER // 8))
    patch(patch(path, 24, struct.pack(">Q", TIB)), 36, struct.pack(">IQ", TIB // CLUSTER // (CLUSTER // 8), length))
    return patch(path, length, whole[table : table + 8] * (TIB // CLUSTER // (CLUSTER // 8)))


def shared_vmdk(path: Path) -> Path:
    create(path, "vmdk", TIB)
    qemu("qemu-io", "-f", "vmdk", "-c", "write -q 0 64k", path)
    whole = path.read_bytes()
    directory = struct.unpack("<Q", whole[56:64])[0] * 512
    table = struct.unpack("<I", whole[directory : directory + 4])[0]
    grain = whole[table * 512 : table * 512 + 4]
    return patch(patch(path, table * 512, grain * 512), directory, struct.pack("<I", table) * (TIB // (512 * CLUSTER)))


def shared_vdi(path: Path) -> Path:
    create(path, "vdi", TIB)
    qemu("qemu-io", "-f", "vdi", "-c", "write -q 0 64k", path)
    table, data = struct.unpack("<II", path.read_bytes()[340:348])
    patch(path, table, bytes(4 * (TIB // MIB)))
    os.truncate(path, data + MIB)
    return patch(path, 388, struct.pack("<I", 1))


def shared_vdi_in_a_hole(path: Path) -> Path:
    """Create an image of zeros without storage: each entry refers to the first block."""
    shared_vdi(path)
    table, data = struct.unpack("<II", path.read_bytes()[340:348])
    with open(path, "r+b") as file:
        file.truncate(4096)
        file.truncate(data + MIB)
    return path


def shared_vhdx(path: Path) -> Path:
    create(path, "vhdx", TIB, "block_size=1M")
    qemu("qemu-io", "-f", "vhdx", "-c", "write -q 0 64k", path)
    whole = path.read_bytes()
    region = whole.index(bytes.fromhex("6677c22d23f600429d64115e9bfd4a08"), 192 << 10)
    table = struct.unpack("<Q", whole[region + 16 : region + 24])[0]
    return patch(path, table, whole[table : table + 8] * 4096)


def shared_vhd(path: Path) -> Path:
    create(path, "vpc", TIB, "force_size=on")
    qemu("qemu-io", "-f", "vpc", "-c", "write -q 0 64k", path)
    whole = path.read_bytes()
    return patch(path, 1536, whole[1536:1540] * (TIB // (2 * MIB)))


@pytest.mark.parametrize(
    "make", [shared_qcow2, shared_compressed, shared_vmdk, shared_vdi, shared_vdi_in_a_hole, shared_vhdx, shared_vhd]
)
def test_tables_that_refer_to_one_block_many_times(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = make(tmp_path / "image")
    for verify in (True, False, None):
        with refused(
            InvalidInput,
            says=f"path: '{path}' is not accepted: the tables of this * image refer to the same blocks several times.",
        ):
            check(path, verify=verify)


def test_snapshots_share_blocks_with_what_is_active(tmp_path: Path) -> None:
    path = image_of(tmp_path / "image", noise(2 * MIB, "snapshots"), "qcow2")
    for name in "abcdefgh":
        qemu("qemu-img", "snapshot", "-c", name, path)
    image, warnings = check(path)
    assert image.snapshots == 8
    assert warnings == (f"{path} has 8 internal snapshots, which are left out.",)


def test_reference_tables_that_take_qemu_img_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All 8,000 snapshots have the active tables, and a check reads the same tables again for each snapshot."""
    path = create(tmp_path / "image", "qcow2", 64 << 30)
    qemu(
        "qemu-io",
        "-f",
        "qcow2",
        *(word for number in range(128) for word in ("-c", f"write -q {number * 512}M 64k")),
        path,
    )
    table = struct.unpack(">Q", path.read_bytes()[40:48])[0]
    end = -(-path.stat().st_size // CLUSTER) * CLUSTER
    os.truncate(path, end)
    patch(path, end, struct.pack(">QIHHIIQII", table, 128, 0, 0, 0, 0, 0, 0, 0) * 8000)
    patch(path, 60, struct.pack(">IQ", 8000, end))
    monkeypatch.setattr(qemu_img_command, "CPU_SECONDS", 1)
    with refused(
        InvalidInput,
        says=f"path: '{path}' is not accepted: a whole, sound image is expected, and it can't be "
        "checked (The command 'qemu-img' did not end in 3 s of CPU time and 512 MiB, which are "
        f"for * bytes of data, with {path} (stopped by SIGKILL)); verify: false stores it "
        "nevertheless.",
    ):
        check(path)


def test_many_compressed_clusters_in_the_last_sector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check would have to decompress each cluster to find out if its data is whole."""
    path = image_of(tmp_path / "image", b"x" * CLUSTER, "qcow2", " -c")
    whole = path.read_bytes()
    table = struct.unpack(">Q", whole[40:48])[0]
    entries = struct.unpack(">Q", whole[table : table + 8])[0] & ((1 << 56) - 1)
    last = struct.unpack(">Q", whole[entries : entries + 8])[0]
    os.truncate(path, len(whole) - 300)
    patch(
        patch(path, 24, struct.pack(">Q", 8192 * CLUSTER)),
        entries,
        b"".join(struct.pack(">Q", last + number % 200) for number in range(8192)),
    )
    seen = []
    is_whole = qcow2_tables.is_whole_deflate
    monkeypatch.setattr(
        qcow2_tables, "is_whole_deflate", lambda data, cluster: seen.append(data) or is_whole(data, cluster)
    )
    with pytest.raises(InvalidInput):
        check(path)
    assert len(seen) <= 64


@pytest.mark.parametrize("image_format", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_chance_in_the_tables_raises_nothing_unexpected(tmp_path: Path, image_format: str) -> None:
    path = image_of(tmp_path / "image", noise(MIB, "chance"), image_format)
    whole = path.read_bytes()
    spots = [spot for spot in range(8, len(whole), 4) if any(whole[spot : spot + 4]) and not 2 * MIB < spot < 3 * MIB][
        :20000
    ]
    choose = random.Random(image_format)
    for _round in range(60):
        hostile = bytearray(whole)
        for spot in choose.sample(spots[: choose.choice([100, 1000, 20000])], choose.randrange(1, 4)):
            hostile[spot : spot + 8] = choose.choice(
                [choose.randbytes(8), b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7]
            )
        path.write_bytes(hostile)
        with contextlib.suppress(InvalidInput):
            image, _warnings = check(path, verify=choose.choice([True, False, None]))
            assert 0 <= image.data <= image.virtual_size


# A fixed VHD


def test_a_fixed_vhd_is_a_raw_disk_with_a_footer(tmp_path: Path) -> None:
    path = image_of(tmp_path / "image", noise(3 * MIB, "fixed"), "vpc", "subformat=fixed,force_size=on")
    length = path.stat().st_size
    assert length == 3 * MIB + 512
    assert (check(path)[0].format, check(path)[0].virtual_size) == ("raw", 3 * MIB)
    assert check(path, image_format="raw")[0].virtual_size == length
    whole = path.read_bytes()
    changes = {
        "checksum": (length - 448, b"\0"),
        "type": (length - 449, b"\3"),
        "cookie": (length - 512, b"C"),
        "size": (length - 464, b"\1"),
    }
    for _name, (offset, byte) in changes.items():
        path.write_bytes(whole)
        assert check(patch(path, offset, byte))[0].virtual_size == length
    path.write_bytes(whole + bytes(512))
    assert check(path)[0].virtual_size == length + 512
