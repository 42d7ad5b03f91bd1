# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same tests for all transfer drivers, as a front-end calls them, with real hosts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_directory import parse_disk_path
from ansible_collections.granary.vmstore.plugins.module_utils._image.vm_lock import LOCK_FILE, locked_disk
from transfer_cluster import FRONT_END, Cluster, messages, shell, vm_document

MIB = 2**20
RAW, QCOW2, SAVED = "a" * 32, "b" * 32, "c" * 32
VM = 7


class Driver:
    """A transfer driver, in mixed mode with the driver of the system datastore in ``suffix``.

    Without mixed mode, ``shared`` and ``qcow2`` have all datastores on all machines.
    """

    def __init__(self, cluster: Cluster, name: str, suffix: str) -> None:
        self.cluster, self.name, self.suffix = cluster, name, suffix
        self.is_shared = name in ("shared", "qcow2") and not suffix
        self.images = cluster.datastores / ("103" if name in ("shared", "qcow2") else "101")
        self.system = cluster.datastores / ("102" if self.is_shared else "100")
        self.other = cluster.datastores / ("104" if self.is_shared else "107")

    def disk(self, number: int, host: str = "h1", system: Path | None = None) -> str:
        return f"{host}:{system or self.system}/{VM}/disk.{number}"

    def directory(self, host: str, system: Path | None = None) -> str:
        return f"{host}:{system or self.system}/{VM}"

    def path(self, place: str) -> Path:
        """Return the path of a place of an argument, as the test reaches it."""
        machine, _colon, path = place.partition(":")
        return self.cluster.path(machine, path)

    def image(self, name: str) -> str:
        return f"{FRONT_END}:{self.images}/{name}"

    def call(self, action: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.cluster.call(self.name, f"{action}{self.suffix}", *arguments)

    def __call__(self, action: str, *arguments: object) -> None:
        """Run an action twice. Both runs succeed, and the second one changes no names."""
        shapes = []
        for most in (1, 2):  # a repeated action may have to look whether it was done
            before = self.cluster.connections()
            done = self.call(action, *arguments, VM, "100")
            made = {host: number - before[host] for host, number in self.cluster.connections().items()}
            assert (done.returncode, done.stdout, messages(done.stderr)) == (0, "", []), (
                action,
                arguments,
                done.stderr,
            )
            assert max(made.values()) <= most, (action, made)
            shapes.append({path: (status.st_mode, status.st_size) for path, status in self.cluster.entries().items()})
        assert shapes[0].keys() == shapes[1].keys(), action

    def data(self, place: str, image_format: str) -> str:
        """Return the digest of the guest's view of a disk."""
        machine, _colon, path = place.partition(":")
        raw = self.cluster.root / "data"
        self.cluster.execute(machine, "qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw)
        try:
            with raw.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        finally:
            raw.unlink()

    def info(self, place: str, image_format: str) -> dict[str, object]:
        machine, _colon, path = place.partition(":")
        done = self.cluster.execute(machine, "qemu-img", "info", "-U", "--output=json", "-f", image_format, path)
        found: dict[str, object] = json.loads(done)
        return found


@pytest.fixture(params=["ssh", "shared"])
def driver(request: pytest.FixtureRequest, cluster: Cluster) -> Driver:
    """Return a driver with copies on hosts, or one with shared storage."""
    return prepare(cluster, request.param)


def prepare(cluster: Cluster, name: str, suffix: str = "") -> Driver:
    """Return a driver with a raw image and a qcow2 image of 16 MiB, which have the same data."""
    cluster.clear()
    driver = Driver(cluster, name, suffix)
    with (raw := driver.images / RAW).open("wb") as file:
        for position in (0, 5 * MIB, 12 * MIB + 4096):
            file.seek(position)
            file.write(hashlib.shake_128(b"%d" % position).digest(65536))
        file.truncate(16 * MIB)
    shell("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, driver.images / QCOW2)
    cluster.own()
    declare(driver)
    return driver


def declare(driver: Driver, **options: object) -> None:
    """Let the front-end know the VM, with disks of the images, and empty ones."""
    sizes = {"SIZE": 16, "ORIGINAL_SIZE": 16}
    raw, qcow2 = f"{driver.images}/{RAW}", f"{driver.images}/{QCOW2}"
    driver.cluster.server.vms[VM] = vm_document(
        VM,
        {
            0: {**sizes, "SOURCE": raw, "SIZE": 24},
            1: {**sizes, "SOURCE": qcow2, "FORMAT": "qcow2", "SIZE": 24},
            2: {**sizes, "SOURCE": raw, "CLONE": "NO", "SAVE": "YES"},
            3: {**sizes, "SOURCE": qcow2, "FORMAT": "qcow2", "CLONE": "NO", "SAVE": "YES"},
            4: {"TYPE": "fs", "FORMAT": "qcow2", "SIZE": 16},
            5: {"TYPE": "fs", "FORMAT": "raw", "SIZE": 16, "FS": "ext4"},
            6: {"TYPE": "swap", "SIZE": 16},
        },
        **options,  # type: ignore[arg-type]
    )


def write(driver: Driver, place: str, image_format: str, seed: int) -> None:
    """Write to a disk like its guest."""
    machine, _colon, path = place.partition(":")
    command = f"write -P {seed} {seed}M 64k"
    driver.cluster.execute(machine, "qemu-io", "-f", image_format, "-c", command, path)


def check_storage(driver: Driver) -> None:
    """Require that all files are consistent and have holes, and that nothing temporary is left."""
    allowed = {LOCK_FILE, ".monitor"}
    for machine, place in driver.cluster.places().items():
        for path in place.rglob("*"):
            status = path.lstat()
            assert (status.st_uid, status.st_gid) == (999, 995), path
            assert status.st_blocks * 512 < 5 * MIB, f"holes of {path} were filled"
            assert path.name[0] != "." or path.name in allowed or path.name.endswith(".moved"), path
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    is_qcow2 = file.read(4) == b"QFI\xfb"
                if is_qcow2:
                    inner = driver.cluster.inner(machine, path)
                    driver.cluster.execute(machine, "qemu-img", "check", "-q", "-U", "-f", "qcow2", inner)


class Life:
    """A VM of the driver under test, through all actions. ``disks`` are its disks by number."""

    #: The formats of the disks from images. Disks 0 and 1 are clones, disks 2 and 3 go back to their images.
    FORMATS = {0: "raw", 1: "qcow2", 2: "raw", 3: "qcow2"}

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.disks = {number: driver.disk(number) for number in range(8)}
        #: The disks that get snapshots. Only links to images differ from clones there.
        self.changing = (1, 2, 3) if driver.is_shared else (0, 3)

    def look(self) -> dict[int, str]:
        """Return digests of the data of the disks from images."""
        return {number: self.driver.data(self.disks[number], one) for number, one in self.FORMATS.items()}

    def size(self, number: int) -> object:
        return self.driver.info(self.disks[number], self.FORMATS[number])["virtual-size"]

    def begin(self) -> None:
        driver, disks = self.driver, self.disks
        for action, image, number in (("clone", RAW, 0), ("clone", QCOW2, 1), ("ln", RAW, 2), ("ln", QCOW2, 3)):
            driver(action, driver.image(image), disks[number])
        assert [self.size(number) for number in range(4)] == [24 * MIB, 24 * MIB, 16 * MIB, 16 * MIB]
        found = self.look()
        assert found[2] == found[3] == driver.data(driver.image(RAW), "raw")
        driver("mkimage", 16, "qcow2", disks[4])
        driver("mkimage", 16, "raw", disks[5])
        driver("mkswap", 16, disks[6])
        (context := driver.cluster.home / "context.sh").write_text("A=1\n")
        driver("context", context, f"{context}:'other'", disks[7])
        for number, tag, value in ((5, "TYPE", "ext4"), (6, "TYPE", "swap"), (7, "LABEL", "CONTEXT")):
            assert shell("blkid", "-p", "-o", "value", "-s", tag, driver.path(disks[number])) == f"{value}\n"

    def use_snapshots(self) -> None:
        driver, states = self.driver, [self.look()]
        for snapshot in range(2):
            for number in self.changing:
                driver("snap_create", self.disks[number], snapshot)
                write(driver, self.disks[number], self.FORMATS[number], snapshot + 1)
            states.append(self.look())
        assert all(len({state[number] for state in states}) == 3 for number in self.changing)
        for number in self.changing:
            driver("snap_revert", self.disks[number], 0)
        assert self.look() == states[0]
        for number in self.changing:
            driver("snap_revert", self.disks[number], 1)
            driver("snap_delete", self.disks[number], 0)
        assert self.look() == states[1]

    def grow_and_save(self) -> None:
        driver = self.driver
        driver("resize", self.disks[0], 32)
        driver("resize", self.disks[1], 32)
        assert self.size(0) == self.size(1) == 32 * MIB
        driver("cpds", self.disks[1], driver.images / SAVED, -1)
        assert "backing-filename" not in driver.info(driver.image(SAVED), "qcow2")
        assert driver.data(driver.image(SAVED), "qcow2") == self.look()[1]
        number = self.changing[-1]
        driver("cpds", self.disks[number], driver.images / SAVED, 1)
        assert driver.data(driver.image(SAVED), "qcow2") == self.look()[number]

    def move(self) -> None:
        """Move the VM to another host and datastore, to the front-end, and back to its host."""
        driver, before = self.driver, self.look()
        system = driver.path(driver.directory("h1")).parent / ".monitor"
        assert driver.is_shared or system.read_text() == f"{driver.suffix[1:] or driver.name}\n"
        for host, datastore in (("h2", None), ("h2", driver.other), (FRONT_END, driver.other), ("h1", None)):
            old = driver.path(self.disks[0]).parent
            moved = {number: driver.disk(number, host, datastore) for number in range(8)}
            driver("mv", self.disks[0], moved[0])
            driver("mv", self.disks[0].rpartition("/")[0], driver.directory(host, datastore))
            self.disks = moved
            new = driver.path(moved[0]).parent
            assert new.exists() and (old == new or not old.exists())
            assert self.look() == before
            assert driver.is_shared or (new.parent / ".monitor").read_text() == system.read_text()

    def end(self) -> None:
        driver, before = self.driver, self.look()
        driver("mvds", self.disks[2], driver.images / RAW)
        driver("mvds", self.disks[3], driver.images / QCOW2)
        assert driver.data(driver.image(RAW), "raw") == before[2]
        # On shared storage, the last layer of an image has its data.
        layers = (driver.images / f"{QCOW2}.snap").glob("[0-9]*") if driver.is_shared else ()
        newest = max((f"{FRONT_END}:{one}" for one in layers), default=driver.image(QCOW2))
        assert driver.data(newest, "qcow2") == before[3]
        driver("delete", self.disks[1])
        assert not list(driver.path(self.disks[1]).parent.glob("disk.1*"))
        driver("delete", driver.directory("h1"))
        assert not driver.path(self.disks[0]).parent.exists()


@pytest.mark.parametrize(("name", "suffix"), [("ssh", ""), ("local", ""), ("shared", ""), ("qcow2", ".ssh")])
def test_the_life_of_a_vm(cluster: Cluster, name: str, suffix: str) -> None:
    """Each action runs twice, the first time with at most one connection to each host."""
    life = Life(driver := prepare(cluster, name, suffix))
    for act in (life.begin, life.use_snapshots, life.grow_and_save, life.move, life.end):
        act()
        check_storage(driver)


def test_links_to_images_move_to_another_file_system(cluster: Cluster) -> None:
    """rename(2) doesn't reach the system datastore 100, which is another mount on h1."""
    driver = prepare(cluster, "shared")
    driver("clone", driver.image(QCOW2), driver.disk(1))
    driver("ln", driver.image(RAW), driver.disk(2))
    driver("ln", driver.image(QCOW2), driver.disk(3))
    formats = {1: "qcow2", 2: "raw", 3: "qcow2"}
    before = {number: driver.data(driver.disk(number), one) for number, one in formats.items()}
    links = find_links(driver.path(driver.directory("h1")))
    assert links["disk.2"] == str(driver.images / RAW)
    driver("mv", driver.directory("h1"), driver.directory("h1", system := cluster.datastores / "100"))
    assert not driver.path(driver.directory("h1")).exists()
    assert find_links(driver.path(driver.directory("h1", system))) == links
    assert {number: driver.data(driver.disk(number, "h1", system), one) for number, one in formats.items()} == before
    driver("mvds", driver.disk(2, "h1", system), driver.images / RAW)
    driver("mvds", driver.disk(3, "h1", system), driver.images / QCOW2)
    assert driver.data(driver.image(RAW), "raw") == before[2]
    check_storage(driver)


def find_links(directory: Path) -> dict[str, str]:
    """Return the targets of all links below a directory."""
    return {str(one.relative_to(directory)): os.readlink(one) for one in directory.rglob("*") if one.is_symlink()}


def test_virtiofs(cluster: Cluster) -> None:
    """A disk is only metadata: the actions of a VM's start, move and end do nothing. All others are refused."""
    driver = prepare(cluster, "virtiofs")
    before, connections = cluster.entries().keys(), cluster.connections()
    image, disk = driver.image(RAW), driver.disk(0)
    for action, *arguments in (
        ("clone", image, disk),
        ("ln", image, disk),
        ("mvds", disk, driver.images / RAW),
        ("mv", disk, driver.disk(0, "h2")),
        ("mv", driver.directory("h1"), driver.directory("h2")),
        ("delete", disk),
    ):
        driver(action, *arguments)
    for action, *arguments in (
        ("cpds", disk, driver.images / SAVED, -1),
        ("snap_create", disk, 0),
        ("snap_create_live", disk, 0),
        ("snap_delete", disk, 0),
        ("snap_revert", disk, 0),
        ("context", driver.images / RAW, disk),
        ("mkimage", 16, "raw", disk),
        ("mkswap", 16, disk),
        ("resize", disk, 32),
    ):
        done = driver.call(action, *arguments, VM, 100)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == f"{action} is not supported by the transfer driver virtiofs.\n"
    assert cluster.entries().keys() == before
    assert cluster.connections() == connections


# Bad input: one sentence, and nothing is changed


def refuse(driver: Driver, action: str, *arguments: object, names: tuple[object, ...] = ()) -> str:
    """Require that a call fails with one message, which contains all of ``names``, and changes no file."""

    def look() -> dict[str, object]:
        return {
            path: (status.st_mode, status.st_ino, status.st_size, status.st_mtime_ns)
            for path, status in driver.cluster.entries().items()
            if stat.S_ISREG(status.st_mode) and not path.endswith(LOCK_FILE)
        }

    before, names_before = look(), driver.cluster.entries().keys()
    done = driver.call(action, *arguments)
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    (message,) = messages(done.stderr)
    for name in names:
        assert str(name) in message, message
    assert look() == before
    new = {path for path in driver.cluster.entries().keys() - names_before if not path.endswith(LOCK_FILE)}
    assert not new, message
    return message


@pytest.fixture
def ssh(cluster: Cluster) -> Driver:
    return prepare(cluster, "ssh")


@pytest.mark.parametrize(
    "place",
    [
        "h1",
        "h1:",
        "h1:disk.0",
        ":{path}",
        "-oProxyCommand=x:{path}",
        "h1;x:{path}",
        "h1 h2:{path}",
        "h1:{path}/../disk.1",
        "h1:/{vm}/disk.0",
        "h1:{path}/disk.0/x",
        "h1:{system}/7/other",
        "h1:{system}/x/disk.0",
    ],
)
def test_an_argument_that_is_no_disk_of_a_host(ssh: Driver, place: str) -> None:
    before = ssh.cluster.connections()
    place = place.format(path=f"{ssh.system}/{VM}/disk.0", vm=VM, system=ssh.system)
    for action, *arguments in (("clone", ssh.image(RAW), place), ("mkswap", 16, place), ("snap_create", place, 0)):
        refuse(ssh, action, *arguments, VM, 100, names=("is not accepted: ",))
    assert sum(before.values()) == sum(ssh.cluster.connections().values())


@pytest.mark.parametrize(
    ("action", "arguments"),
    [
        ("clone", ()),
        ("clone", ("{image}", "{disk}", VM)),
        ("clone", ("{image}", "{disk}", VM, 100, 5)),
        ("context", ("{disk}",)),
        ("context", ("relative", "{disk}", VM, 100)),
        ("mv", ("{disk}", VM, 100)),
        ("mkimage", (16, "{disk}", VM, 100)),
        ("mkimage", ("16M", "raw", "{disk}", VM, 100)),
        ("mkimage", (16, "vmdk", "{disk}", VM, 100)),
        ("mkimage", (0, "raw", "{disk}", VM, 100)),
        ("mkswap", ("-1", "{disk}", VM, 100)),
        ("resize", ("{disk}", "1e3", VM, 100)),
        ("snap_create", ("{disk}", "-1", VM, 100)),
        ("snap_create", ("{disk}", "0x1", VM, 100)),
        ("snap_delete", ("{disk}", "9" * 19, VM, 100)),
        ("cpds", ("{disk}", "relative", "-1", VM, 100)),
        ("cpds", ("{disk}", "{image}", "-1", VM, 100)),
        ("mvds", ("{disk}", "/etc/passwd", VM, 100)),
        ("delete", ("{disk}", "x", 100)),
        ("delete", ("h1:/", VM, 100)),
        ("delete", ("h1:/etc", VM, 100)),
    ],
)
def test_other_arguments(ssh: Driver, action: str, arguments: tuple[object, ...]) -> None:
    places = {"image": ssh.image(RAW), "disk": ssh.disk(0)}
    refuse(ssh, action, *(one.format(**places) if isinstance(one, str) else one for one in arguments))


def test_an_unknown_vm_and_an_unknown_disk(driver: Driver) -> None:
    image, names = driver.image(RAW), ("one.vm.info 8", "Error getting virtual machine [8]")
    refuse(driver, "clone", image, driver.disk(0).replace("/7/", "/8/"), 8, 100, names=names)
    refuse(driver, "ln", image, driver.disk(9), VM, 100, names=("disk", "9"))


def test_a_front_end_that_does_not_answer(ssh: Driver) -> None:
    with ssh.cluster.unreachable_api():
        names = (f"localhost:{ssh.cluster.port}",)
        refuse(ssh, "clone", ssh.image(RAW), ssh.disk(0), VM, 100, names=names)


def test_a_host_that_does_not_answer(driver: Driver) -> None:
    names = ("the host dead", "Connection refused")
    refuse(driver, "clone", driver.image(RAW), driver.disk(0, "dead"), VM, 100, names=names)
    refuse(driver, "delete", driver.disk(0, "dead"), VM, 100, names=names)


def test_a_missing_image(driver: Driver) -> None:
    for action in ("clone", "ln"):
        for number, name in ((0, "d" * 32), (1, "e" * 32)):
            refuse(driver, action, driver.image(name), driver.disk(number), VM, 100, names=(name,))


def test_a_missing_disk(driver: Driver) -> None:
    driver("clone", driver.image(RAW), driver.disk(0))
    disk = driver.disk(1)
    for action, *arguments in (
        ("cpds", driver.images / SAVED, -1),
        ("snap_create", 0),
        ("snap_revert", 0),
        ("resize", 32),
    ):
        refuse(driver, action, disk, *arguments, VM, 100, names=(disk.partition(":")[2],))


def test_a_missing_snapshot(driver: Driver) -> None:
    driver("clone", driver.image(QCOW2), driver.disk(1))
    refuse(driver, "snap_revert", driver.disk(1), 3, VM, 100, names=("snapshot 3",))
    refuse(driver, "cpds", driver.disk(1), driver.images / SAVED, 3, VM, 100, names=(" 3",))


@pytest.mark.parametrize(("number", "image_format"), [(0, "raw"), (1, "qcow2")])
def test_a_disk_in_use(driver: Driver, opened_by_qemu: Callable[..., None], number: int, image_format: str) -> None:
    """QEMU has the disk open, but the front-end says that the VM is off."""
    disk, image = driver.disk(number), driver.image(RAW if number == 0 else QCOW2)
    driver("clone", image, disk)
    driver("snap_create", disk, 0)
    opened_by_qemu(Path(os.path.realpath(driver.path(disk))), "-f", image_format)
    path = disk.partition(":")[2]
    for action, *arguments in (
        ("snap_create", disk, 1),
        ("snap_revert", disk, 0),
        ("resize", disk, 32),
        ("cpds", disk, driver.images / SAVED, -1),
        ("clone", image, disk),
        ("delete", disk),
        ("mv", driver.directory("h1"), driver.directory("h2", driver.other)),
        ("delete", driver.directory("h1")),
    ):
        refuse(driver, action, *arguments, VM, 100, names=(path,))


def test_too_little_space(cluster: Cluster) -> None:
    """The message comes before a byte is copied, and the new VM directory disappears."""
    driver = prepare(cluster, "ssh")
    with (image := driver.images / RAW).open("wb") as file:
        file.write(os.urandom(4 * MIB))
    cluster.own()
    cluster.execute("h1", "mount", "-t", "tmpfs", "-o", "size=2m,uid=999,gid=995,mode=755", "none", driver.other)
    try:
        disk = driver.disk(0, "h1", driver.other)
        refuse(
            driver,
            "clone",
            driver.image(image.name),
            disk,
            VM,
            100,
            names=(f"{driver.other}/{VM} has room for", str(4 * MIB)),
        )
        assert cluster.execute("h1", "find", driver.other, "-mindepth", "1") == ""
    finally:
        cluster.execute("h1", "umount", driver.other)


# Several actions at once


def test_many_clones_of_one_image(driver: Driver) -> None:
    cluster = driver.cluster
    expected = driver.data(driver.image(RAW), "raw")
    document = cluster.server.vms[VM].replace("<SIZE>24<", "<SIZE>16<")
    running = []
    for number in range(100, 132):
        cluster.server.vms[number] = document.replace(f"<ID>{VM}<", f"<ID>{number}<")
        disk = f"h{number % 3 + 1}:{driver.system}/{number}/disk.{number % 2}"
        image = driver.image(QCOW2 if number % 2 else RAW)
        running.append((disk, cluster.start(driver.name, f"clone{driver.suffix}", image, disk, number, 100)))
    for disk, process in running:
        with process:
            stdout, stderr = process.communicate(timeout=300)
        assert (process.returncode, stdout, messages(stderr)) == (0, "", []), stderr
        assert driver.data(disk, "qcow2" if disk.endswith("1") else "raw") == expected
    check_storage(driver)


def test_two_actions_on_one_disk_wait_for_each_other(driver: Driver) -> None:
    disk = driver.disk(0)
    driver("clone", driver.image(RAW), disk)
    path = driver.path(disk)
    with locked_disk(parse_disk_path(str(path)), doing="the test"):
        process = driver.cluster.start(driver.name, f"snap_create{driver.suffix}", disk, 0, VM, 100)
        wait_for_user(path.with_name(LOCK_FILE))
        assert process.poll() is None
        assert not path.with_name("disk.0.snap").exists()
    with process:
        _stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, messages(stderr)) == (0, [])
    assert path.with_name("disk.0.snap").exists()


def wait_for_user(path: Path) -> None:
    """Wait until another process has a file open."""
    status, deadline = path.stat(), time.monotonic() + 60
    while time.monotonic() < deadline:
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            if int(link.parts[2]) != os.getpid():
                with contextlib.suppress(OSError):
                    if os.path.samestat(link.stat(), status):
                        return
    raise AssertionError(f"nobody opened {path}")
