# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Attacks on root by the service user, who owns the datastore, replaces names and rewrites headers.

No file of root is read or written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core import command, confinement
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    FileAccessFailed,
    PathNotAllowed,
    StaleState,
    UnsupportedAction,
    VmstoreError,
)
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.base import CopyOptions
from ansible_collections.granary.vmstore.plugins.module_utils._driver.datastore.fs import FsDriver
from ansible_collections.granary.vmstore.plugins.module_utils._image import datablock, image_files, snapshots
from ansible_collections.granary.vmstore.plugins.module_utils._image.image_chain import (
    ImageChain,
    copy_chain,
    has_same_content,
)
from ansible_collections.granary.vmstore.plugins.module_utils._image.new_image import new_image
from ansible_collections.granary.vmstore.plugins.module_utils._model.datastore import Datastore
from refusal import refused

#: User id of the fixture tenant.
TENANT = 61001
NAME = "6573ae15e97409f235cae95705b4d830"
SECRET = b"of root only".ljust(512) * 8
#: The reason that programs print when the kernel refuses to open a file.
DENIED = os.strerror(errno.EACCES)

#: Program that continuously replaces every part in the directory argv[1] by a link to the file argv[2], until its input
#: ends.
SWAP = """
import ctypes, os, select, sys
directory, target = sys.argv[1:3]
os.setgroups([]); os.setgid(int(sys.argv[3])); os.setuid(int(sys.argv[3]))
os.chdir(directory)
print("ready", flush=True)
while not select.select([0], [], [], 0)[0]:
    for name in os.listdir("."):
        if name.endswith(".part") and not os.path.islink(name):
            try:
                os.rename(name, "away")
                os.symlink(target, name)
            except OSError:
                pass
"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(SECRET)
    path.chmod(0o600)
    return path


@pytest.fixture
def driver(tenant: Path) -> FsDriver:
    base = tenant / "100"
    base.mkdir()
    os.chown(base, TENANT, TENANT)
    return FsDriver(Datastore(100, "images", "image", "fs", "local", str(base)))


@contextlib.contextmanager
def swap_parts(directory: Path, target: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", SWAP, directory, target, str(TENANT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        yield
        process.stdin.close()


def qemu_img(*argv: object) -> None:
    subprocess.run(["qemu-img", *map(str, argv)], check=True, stdout=subprocess.DEVNULL)


def qcow2(path: Path, *options: str) -> Path:
    qemu_img("create", "-q", "-f", "qcow2", *options, path, "1M")
    os.chown(path, TENANT, TENANT)
    return path


def holds_secret(path: Path) -> bool:
    return SECRET[:512] in path.read_bytes()


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("fs", ["ext4", None])
def test_a_part_that_is_replaced_by_a_link_writes_nowhere_else(
    driver: FsDriver, secret: Path, image_format: str, fs: str | None
) -> None:
    with swap_parts(Path(driver.datastore.base_path), secret):
        for _time in range(8):
            with contextlib.suppress(VmstoreError):
                driver.mkfs(2, image_format, fs)
    assert (secret.read_bytes(), secret.stat().st_uid, secret.stat().st_mode & 0o777) == (SECRET, 0, 0o600)


def test_a_file_that_is_written_for_another_user_is_written_nowhere_else(
    driver: FsDriver, secret: Path, tmp_path: Path, tenant: Path
) -> None:
    source = ImageChain((str(qcow2(tmp_path / "image")),), "qcow2")
    with swap_parts(tenant, secret):
        for _time in range(8):
            with contextlib.suppress(VmstoreError, OSError), new_image(str(tenant)) as part:
                copy_chain(source, part, "raw")
                part.commit()
    assert secret.read_bytes() == SECRET


def test_nobody_else_can_open_a_part(driver: FsDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """A future owner could otherwise rewrite the header between its check and its use."""
    seen = []

    def look(argv: list[str], **options: object) -> object:
        (name,) = (name for name in os.listdir(driver.datastore.base_path) if name.endswith(".part"))
        argv_of_stat = ["stat", "-c", "%u %a", f"{driver.datastore.base_path}/{name}"]
        seen.append(subprocess.run(argv_of_stat, stdout=subprocess.PIPE, text=True, check=True).stdout)
        return run(argv, **options)

    run = datablock.run
    monkeypatch.setattr(datablock, "run", look)
    source = driver.mkfs(2, "raw", "ext4")
    assert seen == ["0 600\n"]
    assert (
        subprocess.run(["stat", "-c", "%u %g %a", source], stdout=subprocess.PIPE, text=True, check=True).stdout
        == f"{TENANT} {TENANT} 640\n"
    )


@pytest.mark.parametrize("leads", ["data_file", "backing_file"])
@pytest.mark.parametrize("act", ["copy", "compare"])
def test_a_header_that_names_a_file_of_root_when_it_is_too_late_to_look_leads_nowhere(
    driver: FsDriver, secret: Path, tmp_path: Path, leads: str, act: str
) -> None:
    base = Path(driver.datastore.base_path)
    options = (
        ["-o", f"data_file={secret},data_file_raw=on"]
        if leads == "data_file"
        else ["-b", str(secret), "-F", "raw", "-u"]
    )
    top = ImageChain((str(qcow2(base / "1", *options)), str(qcow2(base / "0"))), "qcow2")
    secret.write_bytes(SECRET)  # qemu-img made the file of root the data of the image
    if act == "copy":
        with contextlib.suppress(CommandFailed), new_image(str(base)) as part:
            copy_chain(top, part, "raw")
            assert not holds_secret(base / part.name)
        return
    with top.opened() as one, ImageChain((str(secret),), "raw").opened() as other, contextlib.suppress(CommandFailed):
        assert not has_same_content(one, other)


def test_a_rebase_reads_no_file_of_root(driver: FsDriver, secret: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The header of the overlay names a file of root after the check."""
    image = Path(driver.datastore.base_path) / NAME
    directory = Path(f"{image}.snap")
    directory.mkdir()
    qcow2(directory / "0")
    for number in (1, 2):
        qcow2(
            directory / str(number),
            "-b",
            f"{NAME}.snap/{number - 1}" if number == 1 else f"{directory}/{number - 1}",
            "-F",
            "qcow2",
            "-u",
        )
    image.symlink_to(f"{NAME}.snap/2")

    def late(source: int, target: int) -> None:
        qemu_img("rebase", "-u", "-f", "qcow2", "-b", secret, "-F", "raw", directory / "2")
        copy_local(source, target)

    copy_local = snapshots.copy_local
    monkeypatch.setattr(snapshots, "copy_local", late)
    with refused(CommandFailed, names=[secret, DENIED]):
        driver.snap_delete(str(image), "qcow2", 1)
    assert not holds_secret(directory / "2")
    assert sorted(os.listdir(driver.datastore.base_path)) == [NAME, f"{NAME}.snap"]


@pytest.fixture
def elsewhere(driver: FsDriver, tmp_path: Path) -> Path:
    """Replace the datastore's directory by a link to a directory of root, and return the latter."""
    directory = tmp_path / "root's"
    directory.mkdir()
    (directory / NAME).write_bytes(SECRET)
    (directory / f".{NAME}.part").write_bytes(SECRET)
    base = Path(driver.datastore.base_path)
    base.rename(base.with_name("moved"))
    base.symlink_to(directory)
    os.chown(base, TENANT, TENANT, follow_symlinks=False)
    return directory


ACTIONS: dict[str, Callable[[FsDriver, str], object]] = {
    "mkfs": lambda driver, image: driver.mkfs(1, "raw", None),
    "cp": lambda driver, image: driver.cp("/var/tmp/vmstore-none", CopyOptions("datablock")),
    "rm": lambda driver, image: driver.rm(image),
    "clone": lambda driver, image: driver.clone(image, "raw", CopyOptions("datablock")),
    "export": lambda driver, image: driver.export(image, "raw"),
    "inventory": lambda driver, image: driver.inventory(),
    "stored": lambda driver, image: driver.stored(),
    "sweep": lambda driver, image: driver.sweep(),
    "snapshots": lambda driver, image: driver.snapshots(image),
    "snap_delete": lambda driver, image: driver.snap_delete(image, "raw", 0),
    "snap_revert": lambda driver, image: driver.snap_revert(image, "raw", 0),
    "snap_flatten": lambda driver, image: driver.snap_flatten(image, "raw", 0),
    "content": lambda driver, image: driver.content(image, "raw"),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_datastore_that_leads_to_a_directory_of_root_is_not_used(
    driver: FsDriver, elsewhere: Path, action: str
) -> None:
    before = {name: (elsewhere / name).read_bytes() for name in os.listdir(elsewhere)}
    with refused(PathNotAllowed, value=driver.datastore.base_path):
        ACTIONS[action](driver, f"{driver.datastore.base_path}/{NAME}")
    assert {name: (elsewhere / name).read_bytes() for name in os.listdir(elsewhere)} == before


def test_a_datastore_is_not_made_where_a_link_of_another_user_leads(driver: FsDriver, tmp_path: Path) -> None:
    base = Path(driver.datastore.base_path)
    base.rmdir()
    base.symlink_to(tmp_path / "new")
    os.chown(base, TENANT, TENANT, follow_symlinks=False)
    with pytest.raises(PathNotAllowed):
        driver.prepare()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("owner", [TENANT, 0])
def test_a_datastore_may_be_a_link_to_a_directory_of_the_same_user(
    driver: FsDriver, tenant: Path, tmp_path: Path, owner: int
) -> None:
    """The link leads to another disk, below a directory of root."""
    base = Path(driver.datastore.base_path)
    base.rmdir()
    big = tmp_path / "big"
    big.mkdir()
    os.chown(big, TENANT, TENANT)
    base.symlink_to(big)
    os.chown(base, owner, owner, follow_symlinks=False)
    image = driver.mkfs(1, "raw", None)
    assert os.listdir(big) == [os.path.basename(image)]
    driver.rm(image)
    assert os.listdir(big) == []


def test_an_image_that_is_a_link_is_not_read(driver: FsDriver, secret: Path) -> None:
    image = Path(driver.datastore.base_path) / NAME
    image.symlink_to(secret)
    for action in ("clone", "content", "export"):
        with pytest.raises(VmstoreError):
            ACTIONS[action](driver, str(image))
    driver.rm(str(image))
    assert secret.read_bytes() == SECRET


def test_a_source_that_is_a_link_of_another_user_is_not_read(driver: FsDriver, secret: Path, tenant: Path) -> None:
    (tenant / "source").symlink_to(secret)
    os.chown(tenant / "source", TENANT, TENANT, follow_symlinks=False)
    with refused(PathNotAllowed, option="path", value=str(tenant / "source")):
        driver.cp(str(tenant / "source"), CopyOptions("datablock"))
    assert os.listdir(driver.datastore.base_path) == []


def test_a_link_that_the_kernel_does_not_tell_is_an_error_in_one_sentence(
    driver: FsDriver, tenant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An example is /proc/1/root for users who may not trace this process."""

    def deny(path: str, **options: object) -> str:
        if path == f"{tenant}/source":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return readlink(path, **options)

    readlink = os.readlink
    (tenant / "source").symlink_to("/proc/1/root/etc/hostname")
    monkeypatch.setattr(os, "readlink", deny)
    with refused(FileAccessFailed, says=f"Could not open {tenant}/source: Permission denied."):
        driver.cp(f"{tenant}/source", CopyOptions("datablock"))


@pytest.mark.parametrize("family", ["AF_UNIX", "AF_INET"])
def test_a_confined_command_has_no_sockets(family: str) -> None:
    """The owner of an image could otherwise block the command at a socket for any length of time."""
    argv = ["/usr/bin/python3", "-IS", "-c", f"import socket; socket.socket(socket.{family})"]
    assert command.run(argv).returncode == 0
    done = command.run(argv, accept=None, confinement=confinement.Confinement())
    assert done.stderr.endswith("PermissionError: [Errno 1] Operation not permitted\n")


def test_without_landlock_root_reads_no_headers_of_others(
    driver: FsDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "RETURN_VERSION", 1 << 20)  # a flag that the kernel refuses
    base = Path(driver.datastore.base_path)
    content = ImageChain((str(qcow2(base / "1", "-b", "0", "-F", "qcow2", "-u")), str(qcow2(base / "0"))), "qcow2")
    with (
        refused(
            UnsupportedAction,
            says=f"{base}/1 can be changed by other users than root, and this kernel has no Landlock, "
            "without which root runs no command on such files; enable Landlock (kernel parameter "
            "lsm=landlock,...), or run the task as the owner of the datastore (become_user).",
        ),
        new_image(str(base)) as part,
    ):
        copy_chain(content, part, "raw")
    (tmp_path / "source.qcow2").write_bytes((base / "0").read_bytes())
    driver.datastore = Datastore(100, "images", "image", "fs", "local", str(base), safe_dirs=(str(tmp_path),))
    assert driver.cp(str(tmp_path / "source.qcow2"), CopyOptions("datablock", driver_format="raw")).size_mb == 1


def test_opt_is_no_place_that_everybody_reads(driver: FsDriver, secret: Path) -> None:
    """qemu-img may read programs and libraries, but no files that an administrator installs for root alone."""
    base = Path(driver.datastore.base_path)
    for place in ("/opt", "/usr/local", "/usr/share"):
        made = subprocess.run(
            ["mktemp", "-d", f"{place}/vmstore-test-XXXXXX"], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()
        try:
            Path(made, "secret").write_bytes(SECRET)
            top = ImageChain(
                (str(qcow2(base / "1", "-o", f"data_file={made}/secret,data_file_raw=on")), str(qcow2(base / "0"))),
                "qcow2",
            )
            Path(made, "secret").write_bytes(SECRET)
            with refused(CommandFailed, names=[f"{made}/secret", DENIED]), new_image(str(base)) as part:
                copy_chain(top, part, "raw")
        finally:
            subprocess.run(["rm", "-rf", made, base / "1"], check=True)


@pytest.mark.parametrize("named", [f".{NAME}.part", f"{NAME}.snap", NAME])
def test_no_directory_of_root_is_removed_that_was_moved_into_a_datastore(
    driver: FsDriver, tenant: Path, named: str
) -> None:
    moved = tenant / "moved"
    (moved / "root's").mkdir(parents=True)
    os.chown(moved, TENANT, TENANT)
    (moved / "root's" / "file").write_bytes(SECRET)
    moved.rename(f"{driver.datastore.base_path}/{named}")
    with contextlib.suppress(VmstoreError):
        driver.rm(f"{driver.datastore.base_path}/{NAME}")
    driver.sweep()
    assert subprocess.run(
        ["find", tenant, "-name", "file"], stdout=subprocess.PIPE, text=True, check=True
    ).stdout.endswith("/root's/file\n")


def test_a_part_that_is_a_deep_directory_stops_nothing(driver: FsDriver) -> None:
    subprocess.run(["mkdir", "-p", f"{driver.datastore.base_path}/.{NAME}.part{'/d' * 1500}"], check=True)
    assert os.path.isfile(driver.mkfs(1, "raw", None))


#: Program that creates the file argv[1], and blocks opening of the file (fcntl(2), "Leases") until its input ends.
LEASE = """
import fcntl, os, signal, sys
os.setgroups([]); os.setgid(61001); os.setuid(61001)
signal.signal(signal.SIGIO, signal.SIG_IGN)
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_part_with_a_lease_is_not_waited_for(driver: FsDriver) -> None:
    part = f"{driver.datastore.base_path}/.{NAME}.part"
    with subprocess.Popen(
        [sys.executable, "-c", LEASE, part], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        start = time.monotonic()
        driver.sweep()
        assert driver.inventory().in_progress == (part,)
        process.stdin.close()
        assert time.monotonic() - start < int(Path("/proc/sys/fs/lease-break-time").read_text())


def test_a_directory_of_root_in_the_place_of_a_new_datastore_is_not_handed_over(
    driver: FsDriver, tenant: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = Path(driver.datastore.base_path)
    base.rmdir()
    (tenant / "root's").mkdir(0o700)
    (tenant / "root's" / "file").write_bytes(SECRET)

    def made(name: str, mode: int, *, dir_fd: int) -> None:
        mkdir(name, mode, dir_fd=dir_fd)
        base.rename(tenant / "away")
        (tenant / "root's").rename(base)

    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", made)
    with refused(StaleState, says=f"Another program replaced the directory {base} while it was made."):
        driver.prepare()
    assert (
        subprocess.run(["stat", "-c", "%u %a", base], stdout=subprocess.PIPE, text=True, check=True).stdout == "0 700\n"
    )


def test_a_chain_without_end_is_refused(driver: FsDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "LONGEST_CHAIN", 3)
    image = Path(driver.datastore.base_path) / NAME
    directory = Path(f"{image}.snap")
    directory.mkdir()
    qcow2(directory / "0")
    for number in (1, 2, 3):
        qcow2(directory / str(number), "-b", f"{directory}/{number - 1}", "-F", "qcow2", "-u")
    image.symlink_to(f"{NAME}.snap/2")
    assert len(driver.content(str(image), "qcow2").files) == 3
    image.unlink()
    image.symlink_to(f"{NAME}.snap/3")
    with refused(Conflict, says=f"{directory}/3 is not used: it is based on 3 or more files, one on the other."):
        driver.content(str(image), "qcow2")


def test_a_former_owner_who_has_a_file_open_leads_nowhere_else(driver: FsDriver, secret: Path, tmp_path: Path) -> None:
    """libvirt gives images to root where it can't store their previous owner."""
    base = Path(driver.datastore.base_path)
    top = ImageChain((str(qcow2(base / "1")), str(qcow2(base / "0"))), "qcow2")
    for path in top.files:
        os.chown(path, 0, 0)
        os.chmod(path, 0o640)
    header = qcow2(tmp_path / "header", "-o", f"data_file={secret},data_file_raw=on").read_bytes()
    secret.write_bytes(SECRET)
    Path(top.files[0]).write_bytes(header)
    with new_image(str(base)) as part:
        with refused(CommandFailed, names=[secret, DENIED]):
            copy_chain(top, part, "raw")
        assert not holds_secret(base / part.name)
