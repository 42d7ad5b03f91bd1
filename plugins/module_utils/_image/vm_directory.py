# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory of a virtual machine in a system datastore, ``<datastores>/<system datastore>/<vm>/``, and the files
of its disks there (spec: onestor-datastore, "Datastore Internals").

The directory belongs to the service user. So it is used only through its descriptor, and no link in it is followed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from .._core.digits import is_decimal
from .._core.directory import exists_at, open_directory_at, opened_directory, sync_opened
from .._core.errors import InvalidInput, NotFound, from_os_error
from .._core.paths import absolute
from .._core.records import dataclass
from .._host.made_directory import open_or_make

#: Upper bound of the decimal digits in the id of a datastore, a virtual machine or a disk.
_LONGEST_ID = 9

#: Permission bits of a new directory.
MODE = 0o755

#: Names of files that a virtual machine boots from, beside its disks.
_BOOT_FILES = ("kernel", "initrd")


@dataclass(frozen=True)
class DiskPath:
    """The path of a VM directory, or of a disk in it.

    :arg datastore: absolute path of the system datastore.
    :arg vm: id of the virtual machine.
    :arg name: ``disk.<id>``, ``kernel`` or ``initrd``; empty for the directory itself.
    """

    datastore: str
    vm: int
    name: str

    @property
    def directory(self) -> str:
        return f"{self.datastore}/{self.vm}"

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.name}" if self.name else self.directory


def parse_disk_path(path: str, *, option: str = "path", directory: bool = False) -> DiskPath:
    """Return the parts of a disk's path.

    :arg directory: whether the path of a VM directory is accepted, too.
    :raises InvalidInput: the path isn't absolute, has ``.`` or ``..``, or has another end than
        ``<datastore id>/<vm id>/disk.<disk id>``.
    """
    accepted = "a path that ends in <datastore id>/<vm id>/disk.<disk id> is expected"
    if directory:
        accepted += ", or one that ends in <datastore id>/<vm id>"
    parts = absolute(option, path).split("/")
    name = parts.pop() if _is_disk_name(parts[-1]) else ""
    if not (name or directory) or len(parts) < 4 or not all(map(_is_id, parts[-2:])):
        raise InvalidInput(option, path, accepted)
    return DiskPath("/".join(parts[:-1]), int(parts[-1]), name)


def _is_id(text: str) -> bool:
    return is_decimal(text, _LONGEST_ID) and text == str(int(text))


def _is_disk_name(name: str) -> bool:
    return name in _BOOT_FILES or (name.startswith("disk.") and _is_id(name[5:]))


@contextlib.contextmanager
def opened_vm_directory(path: DiskPath, *, create: bool = False) -> Iterator[int]:
    """Yield a descriptor (O_PATH) of a VM directory.

    :arg create: whether to create a missing directory, and missing directories around it. If root creates a directory,
        it belongs to the owner of the directory around it.
    :raises NotFound: the directory is missing, and ``create`` is false.
    :raises PathNotAllowed: a link of another user leads to the datastore.
    :raises FileAccessFailed, NoSpace: the directory can't be opened or created. A link is refused.
    """
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(opened_system_datastore(path, create=create))
        try:
            if create:
                make_directory_at(system, str(path.vm))
            found = open_directory_at(system, str(path.vm), os.O_PATH)
        except FileNotFoundError as error:
            raise NotFound(f"The VM directory {path.directory} does not exist.") from error
        except OSError as error:
            raise from_os_error(error, f"open {path.directory}") from error
        stack.callback(os.close, found)
        yield found


@contextlib.contextmanager
def opened_system_datastore(path: DiskPath, *, create: bool = False) -> Iterator[int]:
    """Yield a descriptor (O_PATH) of the directory of the system datastore.

    :arg create: whether to create a missing directory, see :func:`opened_vm_directory`, also for the errors.
    """
    root, datastore = os.path.split(path.datastore)
    with contextlib.ExitStack() as stack:
        try:
            if create:
                around = open_or_make(root, MODE)
                stack.callback(os.close, around)
                if not exists_at(around, datastore):
                    make_directory_at(around, datastore)
            system = stack.enter_context(opened_directory(path.datastore))
        except FileNotFoundError as error:
            raise NotFound(f"The VM directory {path.directory} does not exist.") from error
        except OSError as error:
            raise from_os_error(error, f"open {path.directory}") from error
        yield system


def make_directory_at(around: int, name: str) -> None:
    """Create a directory durably, unless it exists. If root creates the directory, it belongs to the owner of the
    directory around it.

    :raises OSError: the directory can't be created. :raises NotADirectoryError: the name belongs to another file.
    """
    is_new = True
    try:
        os.mkdir(name, MODE, dir_fd=around)
    except FileExistsError:
        is_new = False
    created = open_directory_at(around, name)
    try:
        owner, found = os.fstat(around), os.fstat(created)
        # A killed run may have left the directory to root.
        if os.geteuid() == 0 and found.st_uid == 0 != owner.st_uid:
            os.fchown(created, owner.st_uid, owner.st_gid)
        if is_new:
            os.fchmod(created, MODE)
            sync_opened(around)
    finally:
        os.close(created)


__all__ = ["DiskPath", "make_directory_at", "opened_system_datastore", "opened_vm_directory", "parse_disk_path"]
