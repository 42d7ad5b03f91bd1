# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The storage of the disks of VMs in a system datastore, compared with du(1), and hostile directories."""

from __future__ import annotations

import base64
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_usage import read_id, read_usage, vm_line

IMAGE = "6573ae15e97409f235cae95705b4d830"

Figures = Mapping[int, tuple[Mapping[int, int], Mapping[tuple[int, int], int]]]


def usage(system: Path) -> tuple[Figures, Mapping[int, str]]:
    """Return the figures of VMs: the MiB by disk, and the MiB by disk and snapshot; and the reasons of the others."""
    descriptor = os.open(system, os.O_RDONLY)
    try:
        found = read_usage(descriptor, str(system))
    finally:
        os.close(descriptor)
    return (
        {
            vm: (dict(disks), {(disk, number): size for number, disk, size in snapshots})
            for vm, disks, snapshots, error in found
            if error is None
        },
        {vm: error for vm, _disks, _snapshots, error in found if error is not None},
    )


def du(path: Path) -> int:
    """Return the MiB that a file takes, rounded up."""
    done = subprocess.run(["du", "--block-size=1M", "--dereference", path], capture_output=True, check=True)
    return int(done.stdout.split()[0])


def write(path: Path, size: int) -> Path:
    """Write a file with so many KiB of data and a hole behind them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(size << 10))
        file.truncate(64 << 20)
    return path


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """Return the directory of a system datastore, with that of an image datastore beside it."""
    for number in (100, 103):
        (tmp_path / "datastores" / str(number)).mkdir(parents=True)
    return tmp_path / "datastores" / "100"


def test_disks_and_snapshots_of_files(system: Path) -> None:
    sizes = {"disk.0": 1, "disk.0.snap/0": 1024, "disk.0.snap/12": 1025, "disk.10": 5000, "disk.1": 0}
    for name, size in sizes.items():
        write(system / "7" / name, size)
    write(system / "12345678" / "disk.2147483647", 3000)
    found, failed = usage(system)
    place = system / "7"
    assert (list(found), failed) == ([7, 12345678], {})
    assert found[7] == (
        {0: du(place / "disk.0"), 1: du(place / "disk.1"), 10: du(place / "disk.10")},
        {(0, 0): du(place / "disk.0.snap/0"), (0, 12): du(place / "disk.0.snap/12")},
    )
    assert found[7] == ({0: 1, 1: 0, 10: 5}, {(0, 0): 1, (0, 12): 2})
    assert found[12345678] == ({2147483647: 3}, {})


@pytest.mark.parametrize("prefix", ["", "{vm}/", "/{vm}//"])
def test_the_layer_that_receives_the_writes_is_no_snapshot(system: Path, prefix: str) -> None:
    vm = system / "7"
    for number in (0, 2, 10, 11):
        write(vm / "disk.3.snap" / str(number), number << 10)
    (vm / "disk.3.snap" / "disk.3.snap").symlink_to(".")
    (vm / "disk.3").symlink_to(f"{prefix.format(vm=vm)}disk.3.snap/10")
    # The layer 11 isn't used yet.
    assert usage(system)[0] == {7: ({3: 10}, {(3, 0): 0, (3, 2): 2})}


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_disk_that_is_a_link_to_its_image(system: Path, slashes: str) -> None:
    (vm := system / "7").mkdir()
    images = system.parent / "103"
    image = write(images / IMAGE, 2048)
    for number in (1, 2, 3):
        write(images / f"{IMAGE}.snap" / str(number), (number + 2) << 10)
    (vm / "disk.0").symlink_to(f"{system.parent}{slashes}103/{IMAGE}")
    assert usage(system)[0] == {7: ({0: 2}, {(0, 1): 3, (0, 2): 4, (0, 3): 5})}
    (images / f"{IMAGE}.snap" / "0").symlink_to(image)
    (vm / "disk.1").symlink_to(f"{system.parent}{slashes}103/{IMAGE}.snap/2")
    (vm / "disk.2").symlink_to(f"{system.parent}{slashes}103/{IMAGE}.snap/0")
    disks, snapshots = usage(system)[0][7]
    assert disks == {0: 2, 1: 4, 2: 2}
    assert snapshots == {(0, 1): 3, (0, 2): 4, (0, 3): 5, (1, 0): 2, (1, 1): 3}


def test_an_image_that_is_a_link_to_its_newest_layer(system: Path) -> None:
    images = system.parent / "103"
    for number in (0, 1):
        write(images / f"{IMAGE}.snap" / str(number), (number + 2) << 10)
    (images / IMAGE).symlink_to(f"{IMAGE}.snap/1")
    (system / "7").mkdir()
    (system / "7" / "disk.0").symlink_to(images / IMAGE)
    assert usage(system)[0] == {7: ({0: 3}, {(0, 0): 2})}


@pytest.mark.parametrize(
    "target",
    [
        "{0}/secret",
        "{0}/103/secret",
        "{0}/103/../secret",
        "../../secret",
        "{0}/103/secret.snap/0",
        f"{{0}}/103/{IMAGE}.snap/secret",
        f"{{0}}/x/{IMAGE}",
        f"{{0}}/103/{IMAGE}.snap/9",
        "{0}/103",
        "disk.1",
        "disk.0",
        "disk.1.snap/0",
        "disk.0.snap/00",
        "/dev/zero",
        "",
    ],
)
def test_a_link_elsewhere_is_no_disk(system: Path, target: str) -> None:
    root, vm = system.parent, system / "7"
    (root / "x").mkdir()
    for place in (root, root / "103", root / "103" / "secret.snap", root / "x"):
        for name in ("secret", "0", IMAGE):
            write(place / name, 1024)
    write(vm / "disk.1.snap" / "0", 1024)
    write(vm / "disk.0.snap" / "00", 1024)
    write(root / "103" / f"{IMAGE}.snap" / "secret", 1024)
    os.symlink(target.format(root) or "disk.0.snap/", vm / "disk.0")
    assert usage(system) == ({7: ({}, {})}, {})


def test_other_files_are_no_disks(system: Path) -> None:
    vm = system / "7"
    for name in ("disk.", "disk.x", "disk.01", "disk.2147483648", "disk.1\n", "disk.٣", "vm.xml", "disk.9.snap/1"):
        write(vm / name, 1024)
    write(vm / "disk.0", 1024)
    for name in ("01", "x", "1.part", '1"'):
        write(vm / "disk.0.snap" / name, 1024)
    os.mkfifo(vm / "disk.1")
    os.mkfifo(vm / "disk.0.snap" / "5")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(vm / "disk.2"))
    (vm / "disk.3").mkdir()
    (vm / "disk.0.snap" / "6").symlink_to("/etc/passwd")
    (vm / "disk.0.snap" / "7").mkdir()
    for name in ("8\n", "x", "09", '9"', "-1", "2147483648"):
        write(system / name / "disk.0", 1024)
    (system / "8").symlink_to(vm)
    (system / "9").write_text("")
    os.mkfifo(system / "10")
    (system / "11").mkdir()
    assert usage(system) == ({7: ({0: 1}, {}), 11: ({}, {})}, {})


def test_a_loop_of_links(system: Path) -> None:
    write(system / "7" / "disk.1", 1024)
    (system / "7" / "disk.0").symlink_to(f"{system.parent}/103/{IMAGE}")
    (system.parent / "103" / IMAGE).symlink_to(f"{IMAGE}.snap/0")
    (system.parent / "103" / f"{IMAGE}.snap").symlink_to(f"{IMAGE}.snap")
    (system / "8").symlink_to("8")
    assert usage(system) == ({7: ({1: 1}, {})}, {})


def test_a_disk_of_10000_snapshots(system: Path) -> None:
    directory = system / "7" / "disk.0.snap"
    write(system / "7" / "disk.0", 4)
    directory.mkdir()
    for number in range(10_000):
        (directory / str(number)).touch()
    assert usage(system)[0][7][1] == {(0, number): 0 for number in range(10_000)}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("10", 10),
        ("2147483647", 2**31 - 1),
        *((text, None) for text in ("", "00", "2147483648", "9" * 5000, "-1", " 1", "1\n", "²", "٣", "1_0")),
    ],
)
def test_ids(text: str, number: int | None) -> None:
    assert read_id(text) == number


def test_the_line_of_a_vm() -> None:
    match = re.fullmatch(r'VM = \[ ID = 7, MONITOR = "([A-Za-z0-9+/=]+)" \]\n', vm_line(7, [(0, 8)], [(3, 0, 2)]))
    assert match
    assert base64.b64decode(match[1]).decode() == (
        "DISK_SIZE = [ ID=0, SIZE=8 ]\nSNAPSHOT_SIZE = [ ID=3, DISK_ID=0, SIZE=2 ]\n"
    )
