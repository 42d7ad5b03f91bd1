# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program that libvirt starts, as root, in place of virtiofsd: it checks the shared directory, then runs
virtiofsd as another user.

The role granary.vmstore.hypervisor installs this file as /usr/local/libexec/granary-virtiofsd, so it imports the
standard library only. The modules import it as well, because they have to find the same directory that the wrapper
finds.

A refusal is one line in /var/log/libvirt/qemu/DOMAIN-fsN-virtiofsd.log. libvirt itself reports a refused connection
only.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import re
import shutil
import stat
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

DAEMON = "/usr/libexec/virtiofsd"

#: The file with the name of the user that runs virtiofsd; the role granary.vmstore.hypervisor writes it.
CONFIGURATION = "/etc/granary-vmstore/virtiofsd.json"

#: The file with the exported directories, by path; the module virtiofs_export writes it.
RECORDS = "/var/lib/granary-vmstore/exports.json"

#: Upper bound of the symbolic links in one path, the same as the kernel's (MAXSYMLINKS).
MOST_LINKS = 40

#: Types of file systems whose inode numbers outlive a mount.
LASTING_INODES = frozenset("bcachefs btrfs ceph ext2 ext3 ext4 f2fs gfs2 jfs nfs nfs4 ocfs2 xfs zfs".split())

#: Types of file systems whose inode numbers are valid only until the next boot.
INODES_UNTIL_BOOT = frozenset(["overlay", "ramfs", "tmpfs"])

#: mount(2) and unshare(2), which the standard library lacks before Python 3.12.
MS_NOSUID, MS_NODEV, MS_BIND, MS_REC, MS_SLAVE = 1 << 1, 1 << 2, 1 << 12, 1 << 14, 1 << 19
CLONE_NEWNS = 1 << 17

#: mount_setattr(2), the same number on all architectures, with its flags (linux/mount.h, linux/fcntl.h).
MOUNT_SETATTR = 442
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK = 0x1, 0x10, 0x70
AT_EMPTY_PATH, AT_RECURSIVE = 0x1000, 0x8000

#: Names of extended attributes that a guest may set on files of the host, in the syntax of ``virtiofsd --xattrmap``:
#: attributes of users, access control lists and capabilities of files. Attributes of security modules and of root are
#: missing.
ATTRIBUTES = (
    ":ok:all:security.capability:security.capability::unsupported:all:security.:security.:"
    ":unsupported:all:trusted.:trusted.::ok:all:::"
)


class Refused(Exception):
    """The directory is not shared. ``str(error)`` is the reason, one sentence without the period."""


class UntrustedLink(Refused):
    """The path leads through a symbolic link that users other than root can replace."""


@dataclass(frozen=True)
class Identity:
    """The properties by which a directory is recognized at its path.

    ``boot`` is the boot of this host during which they were read.
    """

    inode: int
    fstype: str
    mount_point: str
    boot: str


@dataclass(frozen=True)
class Weakness:
    """A directory on the way to the shared one that users other than root can change.

    ``reason`` is a part of a sentence about ``path``. ``below`` holds the directories from here to the shared one, each
    with its name.
    """

    path: str
    reason: str
    descriptor: int
    below: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Found:
    """An open directory (O_PATH) and the way to it. ``path`` holds no symbolic link."""

    path: str
    descriptor: int
    weakness: Weakness | None

    def close(self) -> None:
        """Close all descriptors."""
        weak = self.weakness
        for descriptor in {
            self.descriptor,
            *([] if weak is None else [weak.descriptor, *(one for _name, one in weak.below)]),
        }:
            os.close(descriptor)


# The way to a directory


def find_directory(path: str) -> Found:
    """Open the directory ``path``, component by component.

    A symbolic link that only root can replace is followed.

    :raises UntrustedLink: the path leads through any other link; :raises Refused: the path isn't that of a directory.
    """
    if not path.startswith("/"):
        raise Refused(f"{path!r} is not an absolute path")
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    here, links = _Way(), 0
    while todo:
        name = todo.pop()
        if name == "..":
            here.go_up(path)
            continue
        child, found = _open_child(here.descriptor, name, here.path)
        here.judge(found)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            target = _link_target(here, child, name)
            if links > MOST_LINKS:
                raise Refused(f"{path!r} leads through more than {MOST_LINKS} symbolic links")
            if target.startswith("/"):
                os.close(here.descriptor)
                here = _Way()
            todo += [part for part in reversed(target.split("/")) if part not in ("", ".")]
        elif not stat.S_ISDIR(found.st_mode):
            raise Refused(f"{os.path.join(here.path, name)!r} is no directory")
        else:
            here.enter(name, child)
    weak = here.weakness
    return Found(here.path, here.descriptor, None if weak is None else Weakness(*weak, tuple(here.below)))


class _Way:
    """The directories that a walk has passed, from the root directory on."""

    def __init__(self) -> None:
        self.path = "/"
        self.descriptor = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.weakness: tuple[str, str, int] | None = None
        self.below: list[tuple[str, int]] = []

    def judge(self, child: os.stat_result) -> None:
        """Record whether users other than root could replace ``child``, an entry of this directory."""
        if self.weakness is None:
            reason = _weakness(self.descriptor, child)
            if reason is not None:
                self.weakness = (self.path, reason, self.descriptor)

    def enter(self, name: str, descriptor: int) -> None:
        self.path = os.path.join(self.path, name)
        if self.weakness is not None:
            self.below.append((name, descriptor))
        else:
            os.close(self.descriptor)
        self.descriptor = descriptor

    def go_up(self, path: str) -> None:
        if self.weakness is not None:
            raise Refused(f"{path!r} leads through '..' below {self.weakness[0]!r}, which {self.weakness[1]}")
        self.path = os.path.dirname(self.path)
        above = os.open("..", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)
        os.close(self.descriptor)
        self.descriptor = above


def _open_child(directory: int, name: str, path: str) -> tuple[int, os.stat_result]:
    try:
        try:
            # O_DIRECTORY triggers an automount, and the other call doesn't.
            child = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        except NotADirectoryError:
            child = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        return child, os.fstat(child)
    except OSError as error:
        raise Refused(f"{os.path.join(path, name)!r} can't be opened: {error.strerror}") from error


def _link_target(here: _Way, link: int, name: str) -> str:
    path = os.path.join(here.path, name)
    if here.weakness is not None:
        raise UntrustedLink(f"{path!r} is a symbolic link, and {here.weakness[0]!r} {here.weakness[1]}")
    try:
        return os.readlink("", dir_fd=link)
    except OSError as error:  # such as the link to another process's root directory
        raise Refused(f"the symbolic link {path!r} can't be read: {error.strerror}") from error
    finally:
        os.close(link)


def _weakness(descriptor: int, child: os.stat_result) -> str | None:
    """Return the reason why users other than root can replace ``child`` in the directory, as a part of a sentence;
    ``None`` when only root can.
    """
    found = os.fstat(descriptor)
    if found.st_uid != 0:
        return f"belongs to {_user(found.st_uid)}"
    shared = found.st_mode & stat.S_IWGRP and (found.st_gid != 0 or _has_acl(descriptor))
    if not (shared or found.st_mode & stat.S_IWOTH):
        return None
    if found.st_mode & stat.S_ISVTX and child.st_uid == 0:
        return None
    return f"can be changed by others than root (mode {stat.S_IMODE(found.st_mode):04o})"


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user id {uid}"


def _has_acl(descriptor: int) -> bool:
    try:
        return "system.posix_acl_access" in os.listxattr(f"/proc/self/fd/{descriptor}")
    except OSError:
        return False


# The identity of a directory


def identify(found: Found) -> Identity:
    """Return the identity of the directory now (proc_pid_fdinfo(5), proc_pid_mountinfo(5))."""
    with open(f"/proc/self/fdinfo/{found.descriptor}", encoding="ascii") as file:
        mount_id = next(line.split()[1] for line in file if line.startswith("mnt_id:"))
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mount = next(line for line in file if line.startswith(f"{mount_id} "))
    own, _hyphen, superblock = mount.partition(" - ")
    mount_point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), own.split(" ")[4])
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return Identity(os.fstat(found.descriptor).st_ino, superblock.split(" ")[0], mount_point, boot)


def difference(recorded: Identity, found: Found, path: str) -> str | None:
    """Return the difference between ``found`` and the directory that was exported as ``path``, as one sentence;
    ``None`` for the same directory.

    Numbers of devices are not compared, because they change when a host boots or mounts a network file system again.
    Inode numbers are compared only if users other than root could have replaced the directory, so that root can restore
    the directory from a backup.
    """
    if found.path != path:
        return f"{path!r} leads to {found.path!r} through a symbolic link"
    now = identify(found)
    if now.mount_point != recorded.mount_point:
        return (
            f"{path!r} was exported from the file system mounted on {recorded.mount_point!r} and is now on the one "
            f"mounted on {now.mount_point!r}"
        )
    comparable = now.fstype in LASTING_INODES or (now.fstype in INODES_UNTIL_BOOT and now.boot == recorded.boot)
    if found.weakness is not None and comparable and now.inode != recorded.inode:
        return (
            f"{path!r} is another directory than the one that was exported, and {found.weakness.path!r} "
            f"{found.weakness.reason}"
        )
    return None


def read_records(path: str | None = None) -> dict[str, Identity]:
    """Return the recorded identities by path of the directory.

    :raises Refused: the content of the file is invalid.
    """
    try:
        with open(path or RECORDS, encoding="utf-8") as file:
            return {name: Identity(**value) for name, value in json.load(file).items()}
    except FileNotFoundError:
        return {}
    except (AttributeError, TypeError, ValueError) as error:
        raise Refused(f"{path or RECORDS} holds no records of exports: {error}") from error


def records_as_json(records: Mapping[str, Identity]) -> bytes:
    """Return the content of the file that :func:`read_records` reads."""
    return json.dumps({name: asdict(value) for name, value in records.items()}, indent=1, sort_keys=True).encode(
        "ascii"
    )


def check(path: str) -> Found:
    """Open the directory ``path`` and compare it with its record. A directory without a record was exported by a
    version without records.

    :raises Refused: the directory isn't the exported one.
    """
    found = find_directory(path)
    recorded = read_records().get(path)
    changed = None if recorded is None else difference(recorded, found, path)
    if changed is not None:
        raise Refused(
            f"{changed}; put the old one back, or remove the export and add it again (virtiofs_export) to share what "
            "is there now"
        )
    return found


def configured_user() -> str | None:
    """Return the user that the role granary.vmstore.hypervisor chose for virtiofsd; ``None`` without a choice."""
    try:
        with open(CONFIGURATION, encoding="utf-8") as file:
            return str(json.load(file)["user"])
    except FileNotFoundError:
        return None


# The daemon


def shared_directory(arguments: Sequence[str]) -> str:
    """Return the directory that the command line of virtiofsd shares. libvirt 10 writes ``-o source=``, later
    versions ``--shared-dir``.
    """
    found = _values(arguments, "--shared-dir")
    for options in _values(arguments, "-o"):
        found += [option[len("source=") :] for option in options.split(",") if option.startswith("source=")]
    if len(found) != 1:
        raise Refused(f"the command line names {len(found)} shared directories and exactly one is expected")
    return found[0]


def check_maps(arguments: Sequence[str], user: str) -> None:
    """Refuse a command line that maps no id to the guest's root: virtiofsd then works with the identity of ``user``.

    :raises Refused: a map is missing, or lacks the id 0.
    """
    for option in ("--uid-map", "--gid-map"):
        # The first character separates the numbers: ":0:100000:65536:".
        maps = [value[1:].split(value[:1]) for value in _values(arguments, option)]
        if not any(one[0] == "0" for one in maps):
            raise Refused(
                f"the device maps no {option[2:5]} of the host to the guest's id 0, so the guest could use files of "
                f"the user {user}; add one to <idmap>"
            )


def _values(arguments: Sequence[str], option: str) -> list[str]:
    """Return the values of an option, in the next argument or after ``=``."""
    following = [value for name, value in zip(arguments, arguments[1:]) if name == option]
    return following + [one[len(option) + 1 :] for one in arguments if one.startswith(f"{option}=")]


def is_read_only(arguments: Sequence[str]) -> bool:
    """Return whether the guest must not write."""
    return "--readonly" in arguments


def map_of_attributes(arguments: Sequence[str]) -> list[str]:
    """Return the option that keeps a guest from setting extended attributes which the kernel of the host evaluates.

    Capabilities of files are allowed, because the kernel binds them to the subordinate ids of the guest
    (user_namespaces(7)).
    """
    if not ("--xattr" in arguments or any("xattr" in one.split(",") for one in _values(arguments, "-o"))):
        return []
    return ["--xattrmap", ATTRIBUTES]


def hold(found: Found, path: str, *, read_only: bool) -> None:
    """Make ``path`` lead to the checked directory in this process and its child processes, even if other users change
    the path on the host.

    virtiofsd opens its directory by name. So the first directory on the way that others can change is covered by an
    empty file system of our own. That file system holds only the way to the shared directory, with the owners and modes
    of the way.

    :arg read_only: whether the kernel refuses writes there, and keeps the access times.
    :raises Refused: the directory was replaced meanwhile.
    """
    weak = found.weakness
    if weak is not None:
        status = os.fstat(weak.descriptor)
        options = f"size=64k,mode={stat.S_IMODE(status.st_mode):o},uid={status.st_uid},gid={status.st_gid}"
        _mount("granary-virtiofsd", f"/proc/self/fd/{weak.descriptor}", "tmpfs", MS_NOSUID | MS_NODEV, options)
        # Only root can change the directories above, so this name leads to the new file system.
        place = os.open(weak.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        for name, original in weak.below:
            os.mkdir(name, 0o700, dir_fd=place)
            place = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=place)
            status = os.fstat(original)
            os.fchown(place, status.st_uid, status.st_gid)
            os.fchmod(place, stat.S_IMODE(status.st_mode))
        _mount(f"/proc/self/fd/{found.descriptor}", f"/proc/self/fd/{place}", None, MS_BIND | MS_REC)
    elif read_only:
        itself = f"/proc/self/fd/{found.descriptor}"
        _mount(itself, itself, None, MS_BIND | MS_REC)
    if read_only:
        # With virtiofsd's own option, the file system still updates the access times of files that the guest reads.
        _set_read_only(os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    if not os.path.samestat(os.stat(path), os.fstat(found.descriptor)):
        raise Refused(f"{path!r} was replaced by another directory while the domain was starting")


def leave_mount_namespace() -> None:
    """Continue in a mount namespace of our own. Mounts of the host still appear in it, like in virtiofsd's
    namespace.
    """
    if _libc().unshare(CLONE_NEWNS):
        raise _os_error("unshare")
    _mount(None, "/", None, MS_SLAVE | MS_REC)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _mount(source: str | None, target: str, fstype: str | None, flags: int, options: str = "") -> None:
    encoded = [None if one is None else os.fsencode(one) for one in (source, target, fstype)]
    if _libc().mount(*encoded, ctypes.c_ulong(flags), os.fsencode(options)):
        raise _os_error(f"mount {target}")


def _set_read_only(mount: int) -> None:
    """Make a mount, and what is mounted below, read-only without access times (mount_setattr(2)).

    :arg mount: descriptor of its root directory.
    """
    attributes = struct.pack("QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOATIME, MOUNT_ATTR_ATIME_MASK, 0, 0)
    if _libc().syscall(
        MOUNT_SETATTR, mount, b"", AT_EMPTY_PATH | AT_RECURSIVE, attributes, ctypes.c_size_t(len(attributes))
    ):
        raise _os_error("mount_setattr")


def _os_error(doing: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{os.strerror(number)} ({doing})")


def run(arguments: Sequence[str]) -> None:
    """Check the directory that ``arguments`` share, and become virtiofsd.

    :raises Refused: the directory is not shared.
    """
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    if not os.access(DAEMON, os.X_OK) or not os.path.isfile(DAEMON):
        raise Refused(f"{DAEMON} is missing: install the package virtiofsd")
    if arguments and arguments[0] in ("--help", "--print-capabilities", "--version"):
        os.execv(DAEMON, [DAEMON, *arguments])
    if shutil.which("newuidmap") is None:
        raise Refused("newuidmap is missing: install the package uidmap")
    account = _account()
    path = shared_directory(arguments)
    check_maps(arguments, account.pw_name)
    leave_mount_namespace()
    hold(check(path), path, read_only=is_read_only(arguments))
    # virtiofsd would keep the supplementary groups of the user for requests of the guest.
    os.setgroups([])
    os.setresgid(account.pw_gid, account.pw_gid, account.pw_gid)
    os.setresuid(account.pw_uid, account.pw_uid, account.pw_uid)
    os.execv(DAEMON, [DAEMON, *arguments, *map_of_attributes(arguments)])


def _account() -> pwd.struct_passwd:
    user = configured_user()
    if user is None:
        raise Refused(f"{CONFIGURATION} is missing: run the role granary.vmstore.hypervisor")
    try:
        return pwd.getpwnam(user)
    except KeyError as error:
        raise Refused(f"there is no user {user}: run the role granary.vmstore.hypervisor") from error


def open_standard_descriptors() -> None:
    """Open /dev/null as each of the descriptors 0, 1 and 2 that is closed. Otherwise a directory would get the
    number, and virtiofsd writes there.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the descriptor gets the lowest number that is free
            os.set_inheritable(number, True)


def main(arguments: Sequence[str], start: Callable[[Sequence[str]], None] = run) -> int:
    """Return the exit code. The reason of a failure is one line on stderr."""
    open_standard_descriptors()
    try:
        start(arguments)
    except (Refused, OSError, ValueError) as error:
        line = "".join(character if character.isprintable() else "?" for character in str(error))
        if sys.stderr is not None:  # it is None while stderr is closed
            sys.stderr.write(f"granary-virtiofsd: {line}.\n")
    return 1


__all__ = [
    "CONFIGURATION",
    "RECORDS",
    "Found",
    "Identity",
    "Refused",
    "UntrustedLink",
    "Weakness",
    "check",
    "configured_user",
    "difference",
    "find_directory",
    "identify",
    "main",
    "read_records",
    "records_as_json",
]

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
