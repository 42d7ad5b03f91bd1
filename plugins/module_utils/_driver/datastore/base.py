# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The operations of a datastore driver (spec: storage-driver, "Datastore Drivers")."""

from __future__ import annotations

from types import MappingProxyType

from ..._core.errors import UnsupportedAction, VmstoreError
from ..._core.records import TYPE_CHECKING, dataclass, field
from ..._core.words import MODULE, Words
from ..._model.datastore import Datastore
from ..info import DriverInfo
from .image_paths import check_image_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import NoReturn

    from ..._image.image_chain import ImageChain
    from ..._image.inventory import Inventory

#: Attributes of a datastore that control how images are made (spec: onestor-datastore).
COPY_ATTRIBUTES = ("convert", "driver", "limit_transfer_bw", "no_decompress", "sparse", "verify")

#: The name of an attribute in errors.
OPTION = "attributes.{}".format

#: Upper bound of the time of one operation of a file system in seconds.
TIMEOUT = 300


@dataclass(frozen=True)
class Settings:
    """The configuration for all datastores of a front-end (spec: onestor-datastore, "Additional Configuration").

    :arg fs_options: arguments of ``mkfs.<fs>``, by file system (FS_OPTS_<FS>).
    :arg qcow2_options: options for every new qcow2 image, in the syntax of ``qemu-img -o``.
    :arg downloader: path of the front-end's program that reads URLs of other schemes than http, https and ssh.
    """

    supported_fs: Sequence[str] = ("ext2", "ext3", "ext4", "xfs")
    fs_options: Mapping[str, str] = field(default_factory=dict)
    qcow2_options: str = ""
    downloader: str | None = None


#: Settings of a front-end without a configuration of its own.
DEFAULT_SETTINGS = Settings()


@dataclass(frozen=True)
class Capacity:
    """The capacity of a datastore in MiB."""

    used_mb: int
    free_mb: int
    total_mb: int


@dataclass(frozen=True)
class VmUsage:
    """The storage of the disks of a VM in a system datastore.

    :arg disks: the number of each disk and its MiB.
    :arg snapshots: the id of each snapshot, the number of its disk, and its MiB.
    :arg error: the reason, if the VM's directory can't be read.
    """

    vm: int
    disks: tuple[tuple[int, ...], ...]
    snapshots: tuple[tuple[int, ...], ...]
    error: str | None = None


@dataclass(frozen=True)
class CopyOptions:
    """The way in which ``cp`` and ``clone`` make an image.

    :arg driver_format: the format that images are converted to (DRIVER: raw or qcow2). ``None`` keeps the format of
        each source.
    :arg image_format: the format of the source (raw or qcow2), regardless of its content. ``None`` detects the format
        from the content.
    :arg any_content: whether files that are no image, such as archives, are stored unchanged. Images are still
        recognised.
    :arg verify: whether a source is refused if its own tables show that it is incomplete, or if a program writes to it.
    :arg bandwidth: upper bound in bytes a second (LIMIT_TRANSFER_BW).
    :arg measure: whether a directory is measured, which takes long if the directory holds many files.
    :arg checksums: hexadecimal digests of the bytes at the path, before decompression, by the name of the algorithm.
    :arg headers: headers for the HTTP server of a URL. Servers behind a redirect don't get these headers.
    :arg ca: certificates in PEM, one of which must have signed the certificate of an HTTPS server. ``None`` stands
        for the certificates that the host trusts.
    """

    image_type: str
    driver_format: str | None = None
    convert: bool = True
    sparse: bool = True
    no_decompress: bool = False
    image_format: str | None = None
    any_content: bool = False
    verify: bool = True
    measure: bool = True
    bandwidth: int | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class CopiedImage:
    """The result of ``cp``: the place of the image's data, its format, and its size in MiB, rounded up. The size of a
    directory that wasn't measured is 0.

    :arg warnings: sentences for the user about the content of the source.
    :arg checksum: ``<algorithm>:<hexadecimal digits>`` of the data as it is stored, where the options have a checksum
        of the source and nothing was converted.
    """

    source: str
    format: str
    size_mb: int
    warnings: tuple[str, ...] = ()
    checksum: str | None = None


@dataclass(frozen=True)
class ImageUse:
    """A user of the data of the image ``source``, described for people."""

    source: str
    user: str


@dataclass(frozen=True)
class ExportedImage:
    """The result of ``export``: the place of the image's data, its format and its MD5."""

    source: str
    format: str
    md5: str


class DatastoreDriver:
    """The driver of one datastore. Here, every optional operation raises :class:`UnsupportedAction`.

    :arg protected: further directories that images must never be made of. The driver and the datastore also restrict
        directories.
    :arg timeout: seconds, in place of :data:`TIMEOUT`.
    :arg words: the words of error messages for the choices of the user.
    :arg may_mount: whether a datastore with NFS_AUTO_ENABLE is mounted when it is needed.
    :arg log: is called with each line about the progress.
    """

    info: DriverInfo

    #: The place where the driver works, as the end of "is not supported by the fs driver".
    _where = ""

    def __init__(
        self,
        datastore: Datastore,
        *,
        protected: Sequence[str] = (),
        settings: Settings = DEFAULT_SETTINGS,
        timeout: float = TIMEOUT,
        words: Words = MODULE,
        may_mount: bool = False,
        log: Callable[[str], object] = str,
    ) -> None:
        self.datastore = datastore
        self.settings = settings
        self.protected = protected
        self.timeout = timeout
        self.words = words
        self.may_mount = may_mount
        self.log = log

    def require(self, action: str) -> None:
        """Refuse an optional action that this driver doesn't have.

        :raises UnsupportedAction: naming the action and the driver.
        """
        if action not in self.info.actions:
            self._unsupported(action)

    def require_type(self, image_type: str) -> None:
        """Refuse images of a type that this driver doesn't register.

        :raises UnsupportedAction: naming the type and the driver.
        """
        if image_type not in self.info.image_types:
            raise UnsupportedAction(f"Images of type {image_type!r} are not supported by the {self.info.name} driver.")

    def _unsupported(self, action: str) -> NoReturn:
        raise UnsupportedAction(f"{action} is not supported by the {self.info.name} driver{self._where}.")

    def check(self, path: str, *names: str) -> None:
        """Refuse a resolved path that no image may be made of. The path is checked again whenever the image is used,
        because the rules may have changed.

        :arg names: other names that root gave the file. They can be allowed or restricted, too.
        :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow the path. The message has the restricted
            directory.
        """
        check_image_path(self.datastore, self.protected, path, *names, safe_option=self.words.safe_dirs)

    def prepare(self) -> None:
        """Create the directories that a new datastore needs. A front-end leaves this to the first action."""

    def look_ahead(self, paths: Sequence[str]) -> None:
        """Prepare :meth:`cp` of many paths, where it is faster to look at all of them at once."""

    def try_attributes(self) -> None:
        """Refuse values of the datastore's attributes that the commands of this host don't accept, where this host
        makes the images.

        :raises InvalidInput: one of the values; its option is the attribute.
        """

    def check_mkfs(self, size_mb: int, image_format: str, fs: str | None) -> None:
        """Refuse invalid arguments of :meth:`mkfs` as far as no trial is necessary, where this host makes the images.

        :raises InvalidInput: one of the arguments.
        """

    def clone_origin(self, other: Datastore, subject: str) -> Datastore | None:
        """Return the argument ``origin`` of :meth:`clone` for an image of the datastore ``other``. Return ``None``
        where the driver needs no origin.

        :arg subject: the image, as the beginning of an error message.
        :raises UnsupportedAction: no host is known to have the data of both datastores.
        """
        self._unsupported("clone")

    def _refuse_origin(self, other: Datastore, subject: str) -> NoReturn:
        places = [
            f"{one.name!r} is on {'the hosts of its bridge_list' if one.bridge_list else 'this host'}"
            for one in (other, self.datastore)
        ]
        raise UnsupportedAction(
            f"{subject} can't be cloned into another datastore here, because {' and '.join(places)}; both have to be "
            "on this host, or on the same hosts in directories beside each other that are named by their ids. "
            "Otherwise make the image from the path or url of the first one."
        )

    def batch(self) -> AbstractContextManager[None]:
        """Return a context in which many images are created or removed together, where this is faster. Images get their
        names only in :meth:`publish`.

        The end of the context removes images that aren't published.
        """
        from contextlib import nullcontext

        return nullcontext()

    def publish(self) -> Mapping[str, VmstoreError]:
        """Make the images and removals of a :meth:`batch` durable. Return the errors by the source of the image. An
        image with an error is removed.

        :raises FileAccessFailed: removals aren't durable yet.
        """
        return {}

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        """Register the data at ``path`` as an image."""
        self._unsupported("cp")

    def mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> str:
        """Create an empty image of ``size_mb`` MiB, perhaps with a file system, and return its source."""
        self._unsupported("mkfs")

    def resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        """Grow an image's data to ``size_mb`` MiB. The existing content stays. A second call changes nothing."""
        self._unsupported("resize")

    def rm(self, source: str) -> None:
        """Remove an image's data. A second call changes nothing."""
        self._unsupported("rm")

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        """Return the size in MiB, rounded up, of an image made of ``path``.

        :arg no_decompress: see :class:`CopyOptions`, also for ``any_content``.
        """
        self._unsupported("stat")

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        """Return the result of :meth:`cp` without creating the image: the size in MiB, or 0 if the size isn't known,
        and the warnings. Raise the errors of :meth:`cp`.
        """
        self._unsupported("preview")

    def clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """Create another image with the data of the image ``source``.

        :arg origin: the datastore of ``source``; ``None`` stands for this datastore.
        """
        self._unsupported("clone")

    def monitor(self) -> Capacity:
        """Return the capacity of the datastore."""
        self._unsupported("monitor")

    def vm_usage(self) -> tuple[VmUsage, ...]:
        """Return the storage of the disks of all VMs in a system datastore, by the id of the VM."""
        self._unsupported("vm_usage")

    def preview_clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """Return the result of :meth:`clone` without creating the image, like :meth:`preview`."""
        self._unsupported("clone")

    def preview_mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> None:
        """Raise the errors of :meth:`mkfs` that can be foreseen."""
        self._unsupported("mkfs")

    def preview_resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        """Raise the errors of :meth:`resize` that can be foreseen."""
        self._unsupported("resize")

    def preview_snapshot(self, action: str, source: str, image_format: str, snapshot: int) -> None:
        """Raise the error of a snapshot action, such as ``snap_flatten``, if it lacks space."""
        self._unsupported(action)

    def stored(self) -> frozenset[str]:
        """Return the sources of the images whose data is in the datastore. This is cheaper than :meth:`inventory`."""
        self._unsupported("stored")

    def inventory(self, checksums: Mapping[str, str] = MappingProxyType({}), *, whole: bool = False) -> Inventory:
        """Return the entire content of the datastore.

        :arg checksums: for each image that needs a checksum, the name of the algorithm by the image's source. A
            checksum reads all of the image's data.
        :arg whole: whether each image is compared with its own tables, where its format has tables.
        """
        self._unsupported("inventory")

    def users(self, source: str, *, running: bool = False) -> Sequence[str]:
        """Return descriptions of the users of an image's data on the hosts that have the data. Users are programs and
        loop devices that have the data open, and libvirt domains.

        Users that this process may not see, such as programs of other accounts, are left out. Each host is queried
        once.

        :arg running: whether to leave out domains that are shut off, because these do not have the data open.
        """
        return ()

    def damage(self, source: str, image_format: str, checksum: str | None = None) -> str | None:
        """Return the evidence that an image's data is damaged, as a part of a sentence, or ``None`` if the data looks
        sound.

        :arg checksum: ``<algorithm>:<hexadecimal digits>`` of the correct data. A checksum reads all of the data.
        """
        self._unsupported("damage")

    def sweep(self) -> None:
        """Remove the stale temporaries of the :meth:`inventory`, left by killed runs."""
        self._unsupported("sweep")

    def snap_delete(self, source: str, image_format: str, snapshot: int) -> None:
        """Delete a snapshot of a persistent image. A second call changes nothing."""
        self._unsupported("snap_delete")

    def snap_flatten(self, source: str, image_format: str, snapshot: int) -> None:
        """Replace the data of the image by the data of the snapshot, and delete all snapshots."""
        self._unsupported("snap_flatten")

    def snap_revert(self, source: str, image_format: str, snapshot: int) -> None:
        """Replace the data of the image by the data of the snapshot."""
        self._unsupported("snap_revert")

    def export(self, source: str, image_format: str | None) -> ExportedImage:
        """Return the data that another datastore needs to fetch the image."""
        self._unsupported("export")

    def snapshots(self, source: str) -> list[int]:
        """Return the ids of an image's snapshots, ascending."""
        self._unsupported("snapshot")

    def snap_size(self, source: str, image_format: str, snapshot: int) -> int:
        """Return the size of the image at the snapshot in MiB, rounded up."""
        self._unsupported("snapshot")

    def snap_same(self, source: str, image_format: str, snapshot: int) -> bool:
        """Return whether the image has the data of the snapshot. Read both entirely."""
        self._unsupported("snapshot")

    def content(self, source: str, image_format: str, snapshot: int | None = None) -> ImageChain:
        """Return the data of the image, or of one of its snapshots, for this host to read."""
        self._unsupported("content")


__all__ = [
    "COPY_ATTRIBUTES",
    "OPTION",
    "TIMEOUT",
    "Capacity",
    "CopiedImage",
    "CopyOptions",
    "DatastoreDriver",
    "ExportedImage",
    "ImageUse",
    "Settings",
    "VmUsage",
]
