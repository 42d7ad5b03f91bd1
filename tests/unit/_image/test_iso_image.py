# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""ISO images: other programs read what the writer writes, and the reader reads what other programs write."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandMissing, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._image.iso_image import (
    LONGEST_NAME,
    MOST_FILES,
    IsoLabels,
    check_file_name,
    iso_bytes,
    read_files,
    read_labels,
)
from hypothesis import given
from hypothesis import strategies as st
from refusal import refused

LABELS = IsoLabels("CONTEXT", "AN APPLICATION")
FILES = {
    "context.sh": b"A='1'\n",
    "a" * LONGEST_NAME: os.urandom(5000),
    "a" * (LONGEST_NAME - 1) + "b": b"",
    "Mixed.Case-2": b"x" * 2048,
    ".profile": b"y" * 2049,
    **{f"many-{number}": str(number).encode() for number in range(100)},
}
DESCRIPTOR = 16 * 2048


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("iso") / "image.iso"
    path.write_bytes(iso_bytes(LABELS, FILES))
    return path


@pytest.mark.parametrize("tree", ["any", "norock"], ids=["Rock Ridge", "Joliet"])
def test_linux_and_windows_find_the_files(image: Path, tmp_path: Path, tree: str) -> None:
    """Linux reads the tree with Rock Ridge, and Windows the one with Joliet."""
    command = ["xorriso", "-read_fs", tree, "-osirrox", "on", "-indev", image, "-extract", "/", tmp_path / "files"]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert {path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()} == FILES


def test_root_owns_the_files(image: Path) -> None:
    listing = subprocess.run(
        ["xorriso", "-indev", image, "-lsl", "/"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    lines = [line.split()[:4] for line in listing.stdout.splitlines() if "'" in line]
    assert lines == [["-r--r--r--", "1", "0", "0"]] * len(FILES)


def test_blkid_finds_the_volume(image: Path) -> None:
    command = ["blkid", "--probe", "-o", "export", image]
    shown = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    assert {"LABEL=CONTEXT", "APPLICATION_ID=AN\\ APPLICATION", "TYPE=iso9660"} <= set(shown.splitlines())


def test_the_reader(image: Path) -> None:
    data = image.read_bytes()
    assert read_labels(data) == LABELS
    assert read_files(data) == FILES


def test_the_reader_reads_images_of_others(tmp_path: Path) -> None:
    """Plain images have short names in capital letters."""
    tree = tmp_path / "tree"
    (tree / "directory").mkdir(parents=True)
    (tree / "directory" / "a.txt").write_text("b")
    (tree / "context.sh").write_text("A='1'\n")
    command = ["xorriso", "-as", "mkisofs", "-quiet", "-volid", "CONTEXT", "-o", tmp_path / "image", tree]
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    data = (tmp_path / "image").read_bytes()
    assert read_files(data) == {"context.sh": b"A='1'\n", "directory/a.txt": b"b"}
    assert read_labels(data).volume_id == "CONTEXT"


def test_directories(tmp_path: Path) -> None:
    files = {"openstack/latest/user_data": b"a", "openstack/latest/meta_data.json": b"{}", "root": b"b"}
    data = iso_bytes(LABELS, files)
    assert read_files(data) == files
    (tmp_path / "image").write_bytes(data)
    command = ["xorriso", "-indev", tmp_path / "image", "-find", "/", "-type", "f"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert set(shown.split()) == {f"'/{name}'" for name in files}
    assert iso_bytes(LABELS, dict(reversed(files.items()))) == data


def test_a_directory_within_itself_is_refused(image: Path) -> None:
    """Otherwise the reader would never end."""
    root = root_of(image)
    own = bytearray(image.read_bytes()[root : root + 34])
    own[33:34] = b"a"
    for records in (bytes(own), bytes(own) * 3):
        with pytest.raises(ValueError):
            read_files(change(image, root, records + b"\0" * 40))


def test_same_files_same_bytes_at_any_time_and_place(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    old = os.umask(0o077)
    try:
        assert iso_bytes(LABELS, dict(reversed(FILES.items()))) == image.read_bytes()
    finally:
        os.umask(old)
    assert os.listdir(tmp_path) == []


def test_same_bytes_as_another_user(image: Path, tenant: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tenant))
    owner = tenant.stat().st_uid
    os.setegid(owner)
    os.seteuid(owner)
    try:
        made = iso_bytes(LABELS, FILES)
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert made == image.read_bytes()


def test_without_xorriso(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(CommandMissing, names=["'xorriso'", "package xorriso"]):
        iso_bytes(LABELS, FILES)


def change(image: Path, place: int, data: bytes) -> bytes:
    found = bytearray(image.read_bytes())
    found[place : place + len(data)] = data
    return bytes(found)


def root_of(image: Path) -> int:
    """Return the offset of the root directory."""
    return struct.unpack_from("<I", image.read_bytes(), DESCRIPTOR + 158)[0] * 2048


@pytest.mark.parametrize(
    "damage",
    [
        lambda image: b"",
        lambda image: image.read_bytes()[: DESCRIPTOR + 100],
        lambda image: image.read_bytes()[:-100_000],
        lambda image: change(image, DESCRIPTOR, b"\0"),
        lambda image: change(image, DESCRIPTOR + 158, b"\xff" * 8),  # the root directory begins beyond the end
        lambda image: change(image, DESCRIPTOR + 166, b"\xff" * 4),  # the root directory ends beyond the end
        lambda image: change(image, root_of(image) + 32, b"\xff"),  # a name ends beyond its record
        lambda image: change(image, root_of(image), b"\x22\0" + b"\0" * 8 + struct.pack("<I", 300_000) + b"\0" * 20),
    ],
)
def test_damaged_images_are_refused(image: Path, damage: object) -> None:
    with pytest.raises(ValueError):
        read_files(damage(image))


def test_files_that_overlap_are_refused(image: Path) -> None:
    """Otherwise a small hostile image would have any number of bytes."""
    record = b"\x22\0" + struct.pack("<I4xI4x", 0, 200_000) + b"\0" * 14 + b"\1a"
    assert len(record) == 0x22
    for records in (record * 3, record * 50):
        with pytest.raises(ValueError):
            read_files(change(image, root_of(image), records + b"\0" * 100))


@pytest.mark.parametrize("count", [MOST_FILES, MOST_FILES + 1])
def test_an_image_of_too_many_files_is_refused(image: Path, count: int) -> None:
    names = [str(number).encode() for number in range(count)]
    records = [struct.pack("<BxI4xI4x14xB", 34 + len(name), 0, 0, len(name)) + name + b"\0" for name in names]
    sectors = [b"".join(records[start : start + 50]).ljust(2048, b"\0") for start in range(0, count, 50)]
    root = len(image.read_bytes()) // 2048
    data = change(image, DESCRIPTOR + 158, struct.pack("<I4xI", root, 2048 * len(sectors))) + b"".join(sectors)
    if count == MOST_FILES:
        assert list(read_files(data)) == [name.decode() for name in names]
    else:
        with pytest.raises(ValueError):
            read_files(data)


@given(place=st.integers(DESCRIPTOR, DESCRIPTOR + 40 * 2048), junk=st.binary(min_size=1, max_size=40))
def test_no_other_error_is_raised(image: Path, place: int, junk: bytes) -> None:
    data = change(image, place, junk)
    for read in (read_labels, read_files):
        try:
            read(data)
        except ValueError:
            pass


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "/a", "-a", "a b", "a\n", "a\0", "a:b", "a;1", "a*", "é", "a'b", "$(a)", "a" * 65]
)
def test_a_name_that_means_something_else_is_refused(name: str) -> None:
    with refused(InvalidInput, option="files.name", value=name):
        check_file_name("files.name", name)


def test_the_sentence_about_a_name() -> None:
    with refused(
        InvalidInput,
        says="name: '-a' is not accepted: a file name of 1 to 64 letters, digits and '_', '.', '+', '@', '-', not "
        "starting with '-', is expected.",
    ):
        check_file_name("name", "-a")
    assert check_file_name("name", ".a@b-c+d_E.1") == ".a@b-c+d_E.1"
