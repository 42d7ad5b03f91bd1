# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The storage that the disks of VMs take in a system datastore (spec: storage-driver, "The Monitoring Process").

The source of this module alone is also the script ``monitor_ds``, which hosts run at each monitoring cycle. So the
module imports nothing else of the engine, and nothing that is slow to load.

The directories belong to another user. They are read by descriptors. Of the symbolic links, only those that the
transfer drivers make are followed: to a layer of the disk, and to an image of a datastore beside this one.
"""

from __future__ import annotations

import binascii
import os
import select
import stat
import time

#: The declaration as in ``typing``, which loads slowly. Type checkers recognize it by its name.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Optional

    #: The figures of a VM: its id; the number and the MiB of each disk; the number, the disk and the MiB of each
    #: snapshot; and the reason if the VM could not be read.
    Usage = tuple[int, list[tuple[int, int]], list[tuple[int, int, int]], Optional[str]]

    #: The blocks of the file that receives the writes of a disk, and those of each snapshot by number.
    Blocks = tuple[int, list[tuple[int, int]]]

#: Blocks of stat(2) in a MiB, and bytes of a MiB.
_BLOCKS, _MEBIBYTE = 2048, 1 << 20

#: Upper bound of an id: a front-end has signed numbers of 32 bits.
HIGHEST_ID = (1 << 31) - 1

#: Upper bound of the time of ``monitor_ds`` in seconds.
DEADLINE = 30

#: Number of SIGKILL. The module ``signal`` is slow to load.
_SIGKILL = 9

#: Length of the name of an image.
_DIGITS = 32

_SNAPSHOTS = ".snap"

#: Upper bound of the VMs that a message names.
MOST_NAMED = 5

#: Flags to list a directory, and to use a directory only as the place of files.
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def read_id(text: str) -> int | None:
    """Return the id that a text is, or ``None``. An id has no leading zeros."""
    if text.isdigit() and text.isascii() and len(text) <= 10 and (text[0] != "0" or text == "0"):
        number = int(text)
        return number if number <= HIGHEST_ID else None
    return None


def read_usage(datastore: int, path: str) -> list[Usage]:
    """Return the figures of all VMs in a system datastore, by id. A VM that can't be read has only the reason.

    :arg datastore: descriptor of the datastore's directory, open for reading.
    :arg path: absolute path of that directory. Links to images begin with the directory around it.
    :raises OSError: the datastore can't be read.
    """
    path = _normalize(path)
    numbers = sorted(number for number in map(read_id, os.listdir(datastore)) if number is not None)
    return [found for number in numbers for found in _read_vm(datastore, path, number)]


def _read_vm(datastore: int, path: str, vm: int) -> list[Usage]:
    """Return the figures of a VM; an empty list if there is no such directory."""
    try:
        directory = os.open(str(vm), _LIST, dir_fd=datastore)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        return [(vm, [], [], _reason(error))]
    disks: list[tuple[int, int]] = []
    snapshots: list[tuple[int, int, int]] = []
    try:
        for entry in os.scandir(directory):
            disk = read_id(entry.name[5:]) if entry.name.startswith("disk.") else None
            found = None if disk is None else _measure_disk(directory, f"{path}/{vm}", entry)
            if disk is not None and found is not None:
                disks.append((disk, -(-found[0] // _BLOCKS)))
                snapshots += [(number, disk, -(-blocks // _BLOCKS)) for number, blocks in found[1]]
    except OSError as error:
        return [(vm, [], [], _reason(error))]
    finally:
        os.close(directory)
    return [(vm, sorted(disks), sorted(snapshots, key=lambda one: (one[1], one[0])), None)]


def _measure_disk(directory: int, place: str, entry: os.DirEntry[str]) -> Blocks | None:
    """Return the blocks of a disk; ``None`` for another file, and if the disk is just being removed.

    :arg directory: descriptor of the VM's directory. ``place`` is its path.
    """
    name = entry.name
    try:
        status = entry.stat(follow_symlinks=False)
        if not stat.S_ISLNK(status.st_mode):
            return _measure(directory, name, status, None)
        target = os.readlink(name, dir_fd=directory)
        target = _normalize(target if target.startswith("/") else f"{place}/{target}")
        layer = _layer(target, f"{place}/{name}")
        if layer is not None:
            return _measure(directory, name, status, layer)
        return _measure_image(target, os.path.dirname(os.path.dirname(place)))
    except FileNotFoundError:
        return None


def _measure_image(target: str, datastores: str) -> Blocks | None:
    """Return the blocks of the image that the link of a disk leads to; ``None`` if the link leads elsewhere.

    :arg datastores: path of the directory with all datastores.
    """
    around, name = os.path.split(target)
    layer = None
    if around.endswith(_SNAPSHOTS):
        layer = read_id(name)
        around, name = os.path.split(around[: -len(_SNAPSHOTS)])
        if layer is None:
            return None
    parent, number = os.path.split(around)
    if parent != datastores or read_id(number) is None or len(name) != _DIGITS or name.strip("0123456789abcdef"):
        return None
    # The administrator may have made the directory of the datastore a link. Only the size of a file is read there.
    directory = os.open(around, _PLACE)
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if layer is None and stat.S_ISLNK(status.st_mode):
            own = os.readlink(name, dir_fd=directory)
            layer = _layer(_normalize(own if own.startswith("/") else f"{around}/{own}"), f"{around}/{name}")
            if layer is None:
                return None
        return _measure(directory, name, status, layer)
    finally:
        os.close(directory)


def _measure(directory: int, name: str, own: os.stat_result, active: int | None) -> Blocks | None:
    """Return the blocks of a disk or an image by its files.

    :arg own: the file or link ``name`` in ``directory``.
    :arg active: the number of the layer that receives the writes; ``None`` if ``own`` receives them.
    """
    if active is None and not stat.S_ISREG(own.st_mode):
        return None
    layers, is_own = _measure_layers(directory, name, own)
    if active is None:
        return own.st_blocks, [one for one in layers.items() if one[0] != is_own]
    # A file with a higher number is a layer that isn't in use yet.
    return (layers[active], [one for one in layers.items() if one[0] < active]) if active in layers else None


def _measure_layers(directory: int, name: str, own: os.stat_result) -> tuple[dict[int, int], int | None]:
    """Return the blocks of the files in the directory of snapshots by number, and the number that is a link to ``own``,
    if there is one.
    """
    blocks: dict[int, int] = {}
    is_own = None
    try:
        snapshots = os.open(f"{name}{_SNAPSHOTS}", _LIST, dir_fd=directory)
    except (FileNotFoundError, NotADirectoryError):
        return blocks, is_own
    try:
        for entry in os.scandir(snapshots):
            number = read_id(entry.name)
            if number is None:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    blocks[number] = status.st_blocks
                elif entry.is_symlink() and stat.S_ISREG(own.st_mode):
                    if os.path.basename(os.readlink(entry.name, dir_fd=snapshots)) == name:
                        blocks[number], is_own = own.st_blocks, number
            except FileNotFoundError:
                continue  # the snapshot has just been removed
    finally:
        os.close(snapshots)
    return blocks, is_own


def _layer(target: str, name: str) -> int | None:
    """Return the number of the layer of a disk or an image that a path is; ``None`` for other paths.

    :arg name: the path of the disk or the image.
    """
    around, number = os.path.split(target)
    return read_id(number) if around == f"{name}{_SNAPSHOTS}" else None


def _normalize(path: str) -> str:
    """Return an absolute path without repeated slashes and dots."""
    return os.path.normpath(f"/{path.lstrip('/')}")


def _reason(error: OSError) -> str:
    return error.strerror or str(error)


def read_capacity(datastore: int) -> tuple[int, int, int]:
    """Return the MiB of a file system that are used, free for users, and there in all, with the numbers of df(1).

    :arg datastore: descriptor of a directory.
    :raises OSError: the file system can't be read.
    """
    found = os.fstatvfs(datastore)
    sizes = (found.f_blocks - found.f_bfree, found.f_bavail, found.f_blocks)
    used, free, total = (blocks * found.f_frsize // _MEBIBYTE for blocks in sizes)
    return used, free, total


def vm_line(vm: int, disks: Sequence[Sequence[int]], snapshots: Sequence[Sequence[int]]) -> str:
    """Return the figures of a VM in the form of a front-end.

    :arg disks, snapshots: see :data:`Usage`.
    """
    text = "".join(
        [
            *(f"DISK_SIZE = [ ID={disk}, SIZE={size} ]\n" for disk, size in disks),
            *(f"SNAPSHOT_SIZE = [ ID={number}, DISK_ID={disk}, SIZE={size} ]\n" for number, disk, size in snapshots),
        ]
    )
    return f'VM = [ ID = {vm}, MONITOR = "{binascii.b2a_base64(text.encode(), newline=False).decode()}" ]\n'


# The script


def main(arguments: list[str], seconds: float = DEADLINE) -> int:
    """Print the report about a system datastore, and return the exit code.

    :arg arguments: the path of the datastore's directory.
    """
    if len(arguments) != 1:
        return _fail("monitor_ds needs one argument: the directory of a system datastore.")
    (path,) = arguments
    reading, writing = os.pipe()
    # A system call that waits for a dead file server can't be interrupted. So a child process reads the datastore, and
    # is left behind.
    child = os.fork()
    if child == 0:
        try:
            _detach(writing)
            with open(writing, "wb") as file:
                file.write(report(os.path.abspath(path)))
        finally:
            os._exit(0)
    os.close(writing)
    try:
        sent = _receive(reading, time.monotonic() + seconds)
    except TimeoutError:
        os.kill(child, _SIGKILL)
        return _fail(f"Reading the datastore {path!r} did not end within {seconds:g} seconds and was stopped.")
    os.waitpid(child, 0)
    result, end, trouble = sent.partition(b"\0")
    if not end:
        return _fail(f"Reading the datastore {path!r} was stopped by another program.")
    if trouble:
        os.write(2, trouble)
    if not result:
        return 1
    try:
        with open(1, "wb", closefd=False) as stdout:
            stdout.write(result)
    except OSError as error:
        return _fail(f"The report can't be written: {_reason(error)}.")
    return 0


def report(path: str) -> bytes:
    """Return the report about a system datastore, a zero byte, and lines about what could not be read. An empty report
    is a failure.
    """
    try:
        datastore = os.open(path, _LIST & ~os.O_NOFOLLOW)
        used, free, total = read_capacity(datastore)
        usage = read_usage(datastore, path)
    except OSError as error:
        return f"\0The datastore {path!r} could not be read: {_reason(error)}.\n".encode()
    lines = [f"USED_MB={used}\nTOTAL_MB={total}\nFREE_MB={free}\n"]
    lines += [vm_line(vm, disks, snapshots) for vm, disks, snapshots, _error in usage if disks]
    failed = [f"{vm} ({error})" for vm, _disks, _snapshots, error in usage if error]
    trouble = f"INFO: {describe_failures(path, failed)}\n" if failed else ""
    return f"{''.join(lines)}\0{trouble}".encode()


def describe_failures(path: str, failed: Sequence[str]) -> str:
    """Return a sentence about VMs that could not be read."""
    more = f" and {len(failed) - MOST_NAMED} more" if len(failed) > MOST_NAMED else ""
    return f"The disks of VMs in {path!r} could not be read: {', '.join(failed[:MOST_NAMED])}{more}."


def _detach(kept: int) -> None:
    """Close all inherited files except ``kept``, because readers of the output would wait for a process that hangs."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) != kept:
            try:
                os.close(int(name))
            except OSError:
                continue  # the descriptor of the listed directory itself


def _receive(reading: int, end: float) -> bytes:
    """Return all that the child process writes.

    :raises TimeoutError: the child process didn't end in time.
    """
    sent = b""
    while True:
        if not select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
            raise TimeoutError
        data = os.read(reading, 1 << 16)
        if not data:
            return sent
        sent += data


def _fail(message: str) -> int:
    os.write(2, f"{message}\n".encode())
    return 1


__all__ = ["HIGHEST_ID", "describe_failures", "main", "read_capacity", "read_id", "read_usage", "report", "vm_line"]
