# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What every datastore driver is asked, and how it declares what it can do (spec: storage-driver, "Datastore
Drivers").
"""

from __future__ import annotations

from types import MappingProxyType

from ..._core.errors import UnsupportedAction, VmstoreError
from ..._core.paths import check_allowed
from ..._core.records import TYPE_CHECKING, dataclass, field
from ..._core.words import MODULE, Words
from ..._model.datastore import Datastore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from typing import NoReturn

    from ..._image.image_chain import ImageChain
    from ..._image.inventory import Inventory

#: Actions that a driver need not have, in alphabetical order.
OPTIONAL_ACTIONS = (
    "backup",
    "clone",
    "disk-attach",
    "export",
    "increment-flatten",
    "mkfs",
    "resize",
    "save-as",
    "snapshot",
)

#: Attributes of a datastore that say how images are made (spec: onestor-datastore).
COPY_ATTRIBUTES = ("convert", "driver", "limit_transfer_bw", "no_decompress", "sparse", "verify")

#: Seconds for one question to a file system.
TIMEOUT = 300

#: RESTRICTED_DIRS of every datastore: what a system and its services live of. The root directory is an ancestor of
#: these.
SYSTEM_DIRS = tuple("/bin /boot /dev /etc /lib /lib32 /lib64 /libx32 /proc /root /run /sbin /sys /usr /var".split())

#: SAFE_DIRS of a datastore that names none.
SAFE_DIRS = ("/var/tmp",)


@dataclass(frozen=True)
class DriverInfo:
    """What a driver can do. Services ask this record, never the driver's name."""

    name: str
    #: The types of datastore it serves, and of images it registers.
    datastore_types: frozenset[str]
    image_types: frozenset[str]
    #: The transfer drivers it works with.
    tm_drivers: tuple[str, ...]
    #: Whether it makes and removes the data of images; if not, that is the user's.
    stores_data: bool = True
    #: Which of :data:`OPTIONAL_ACTIONS` it has.
    actions: frozenset[str] = frozenset()
    #: Further attributes that a datastore of it may have.
    attributes: frozenset[str] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Settings:
    """What is configured for all datastores of a front-end (spec: onestor-datastore, "Additional Configuration").

    :arg fs_options: arguments of ``mkfs.<fs>``, by file system (FS_OPTS_<FS>).
    :arg qcow2_options: of every qcow2 image that is made, as ``qemu-img -o`` takes them.
    :arg downloader: path of the front-end's program that reads URLs of other schemes than http, https and ssh.
    """

    supported_fs: Sequence[str] = ("ext2", "ext3", "ext4", "xfs")
    fs_options: Mapping[str, str] = field(default_factory=dict)
    qcow2_options: str = ""
    downloader: str | None = None


#: Those of a front-end that configures nothing.
DEFAULT_SETTINGS = Settings()


@dataclass(frozen=True)
class Capacity:
    """Of a datastore, in MiB."""

    used_mb: int
    free_mb: int
    total_mb: int


@dataclass(frozen=True)
class CopyOptions:
    """How ``cp`` and ``clone`` make an image.

    :arg driver_format: the format that images are converted to (DRIVER: raw or qcow2); ``None`` leaves each as it
        is.
    :arg image_format: what the source is (raw or qcow2), whatever it looks like; ``None`` lets its content tell.
    :arg any_content: whether what is no image, such as an archive, is stored as it is. What is an image is
        recognised nevertheless.
    :arg verify: whether a source is refused that by its own tables isn't whole, or that somebody writes to.
    :arg bandwidth: bytes a second at most (LIMIT_TRANSFER_BW).
    :arg measure: whether the size of a directory is wanted, which takes long if it holds many files.
    :arg checksums: hexadecimal digests of the bytes at the path, as they are there, by the name of the algorithm.
    :arg headers: what the HTTP server of a URL is sent, and no other that it redirects to.
    :arg ca: certificates in PEM, one of which must have signed that of an HTTPS server; ``None`` for those that the
        host trusts.
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
    """Answer of ``cp``: where the image's data is, its format, and its size in MiB, rounded up; 0 for a directory
    that wasn't measured.

    :arg warnings: sentences for the user about what was found in the source.
    :arg checksum: ``<algorithm>:<hexadecimal digits>`` of the data as it is stored, where a checksum of the source
        was asked for and nothing was converted.
    """

    source: str
    format: str
    size_mb: int
    warnings: tuple[str, ...] = ()
    checksum: str | None = None


@dataclass(frozen=True)
class ImageUse:
    """Who uses the data of the image ``source``, in words."""

    source: str
    user: str


@dataclass(frozen=True)
class ExportedImage:
    """What ``export`` answers: where the image's data is, its format and its MD5."""

    source: str
    format: str
    md5: str


class DatastoreDriver:
    """Acts on one datastore.

    :arg protected: directories that images must never be made of, besides those that the driver and the datastore
        restrict.
    :arg timeout: seconds instead of :data:`TIMEOUT`.
    :arg words: what errors call the choices of the user.
    :arg log: is told what goes on, one line a call.
    """

    info: DriverInfo

    def __init__(
        self,
        datastore: Datastore,
        *,
        protected: Sequence[str] = (),
        settings: Settings = DEFAULT_SETTINGS,
        timeout: float = TIMEOUT,
        words: Words = MODULE,
        log: Callable[[str], object] = str,
    ) -> None:
        self.datastore = datastore
        self.settings = settings
        self.protected = protected
        self.timeout = timeout
        self.words = words
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
        raise UnsupportedAction(f"{action} is not supported by the {self.info.name} driver.")

    def check(self, path: str, *names: str) -> None:
        """Refuse what no image may be made of or, since the rules may have changed, be used from. ``path`` is
        resolved.

        :arg names: other names that root gave it, by which it can be allowed or restricted, too.
        :raises PathNotAllowed: SAFE_DIRS and RESTRICTED_DIRS don't allow it; it names the restricted directory.
        """
        restricted = {*SYSTEM_DIRS, *self.protected, *self.datastore.restricted_dirs, *self.datastore.directories()}
        safe = self.datastore.safe_dirs or SAFE_DIRS
        check_allowed(
            "path", path, safe=safe, restricted=sorted(restricted), safe_option=self.words.safe_dirs, names=names
        )

    def prepare(self) -> None:
        """Make what a new datastore needs before anything is stored in it; the front-end leaves that to the first
        action.
        """

    def look_ahead(self, paths: Sequence[str]) -> None:
        """Prepare :meth:`cp` of many paths, where looking at all of them at once is faster."""

    def try_attributes(self) -> None:
        """Refuse attributes of the datastore whose values the commands of the host that makes its images don't
        accept, as far as that is known here.

        :raises InvalidInput: naming the attribute.
        """

    def batch(self) -> AbstractContextManager[None]:
        """A block in which many images are made or removed, where doing that together is faster: images have their
        names only after :meth:`publish`.

        What isn't published at the end of the block is removed.
        """
        from contextlib import nullcontext

        return nullcontext()

    def publish(self) -> Mapping[str, VmstoreError]:
        """Make durable what was made and removed in a :meth:`batch`. Return the errors by the source of the image;
        an image with one is removed.

        :raises FileAccessFailed: removals aren't durable yet.
        """
        return {}

    def cp(self, path: str, options: CopyOptions) -> CopiedImage:
        """Register what is at ``path`` as an image."""
        self._unsupported("cp")

    def mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> str:
        """Make an empty image of ``size_mb`` MiB, perhaps with a file system, and return its source."""
        self._unsupported("mkfs")

    def resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        """Grow an image's data to ``size_mb`` MiB. What it holds stays. Doing it twice is the same as once."""
        self._unsupported("resize")

    def rm(self, source: str) -> None:
        """Remove an image's data. Doing it twice is the same as once."""
        self._unsupported("rm")

    def stat(self, path: str, *, no_decompress: bool = False, any_content: bool = False) -> int:
        """The size in MiB, rounded up, that an image made of ``path`` would have.

        :arg no_decompress: as :class:`CopyOptions` has it, and ``any_content``.
        """
        self._unsupported("stat")

    def preview(self, path: str, options: CopyOptions) -> CopiedImage:
        """Return what :meth:`cp` would make of ``path`` without making it: the size in MiB, 0 where it isn't known,
        and the warnings. Raise as it would.
        """
        self._unsupported("preview")

    def clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """Make another image with the data of the image ``source``, which is in the datastore ``origin`` or, without
        one, in this datastore.
        """
        self._unsupported("clone")

    def monitor(self) -> Capacity:
        """How much the datastore holds and can hold."""
        self._unsupported("monitor")

    def preview_clone(
        self, source: str, image_format: str | None, options: CopyOptions, origin: Datastore | None = None
    ) -> CopiedImage:
        """Return what :meth:`clone` would make, as :meth:`preview` does."""
        self._unsupported("clone")

    def preview_mkfs(self, size_mb: int, image_format: str, fs: str | None, *, sparse: bool = True) -> None:
        """Raise as :meth:`mkfs` would, as far as that is known before."""
        self._unsupported("mkfs")

    def preview_resize(self, source: str, image_format: str, size_mb: int, *, sparse: bool = True) -> None:
        """Raise as :meth:`resize` would, as far as that is known before."""
        self._unsupported("resize")

    def preview_snapshot(self, action: str, source: str, image_format: str, snapshot: int) -> None:
        """Raise as an action about a snapshot would, such as ``snap_flatten``, for lack of space."""
        self._unsupported(action)

    def stored(self) -> frozenset[str]:
        """The sources of the images whose data is in the datastore now; cheaper than :meth:`inventory`."""
        self._unsupported("stored")

    def inventory(self, checksums: Mapping[str, str] = MappingProxyType({}), *, whole: bool = False) -> Inventory:
        """Everything that is in the datastore now.

        :arg checksums: names of algorithms by the source of an image whose checksum is wanted, too; that reads all
            its data.
        :arg whole: whether each image is compared with its own tables, as far as its format has some.
        """
        self._unsupported("inventory")

    def users(self, source: str, *, running: bool = False) -> Sequence[str]:
        """Return who uses an image's data on the hosts that have it, in words: programs and loop devices that have
        it open, and domains of their libvirt.

        What isn't shown to the user who runs this, such as programs of others, isn't found. Each host is asked once.

        :arg running: whether only those count that have it open now, and no domain that would open it when it
            starts.
        """
        return ()

    def damage(self, source: str, image_format: str, checksum: str | None = None) -> str | None:
        """Return why an image's data is proven to be wrong, as a part of a sentence; ``None`` where it isn't.

        :arg checksum: ``<algorithm>:<hexadecimal digits>`` that the data should have; that reads all of it.
        """
        self._unsupported("damage")

    def sweep(self) -> None:
        """Remove what killed runs left: the leftovers of the :meth:`inventory`."""
        self._unsupported("sweep")

    def snap_delete(self, source: str, image_format: str, snapshot: int) -> None:
        """Delete a snapshot of a persistent image. Doing it twice is the same as once."""
        self._unsupported("snap_delete")

    def snap_flatten(self, source: str, image_format: str, snapshot: int) -> None:
        """Make the image what it was at the snapshot, without any snapshots."""
        self._unsupported("snap_flatten")

    def snap_revert(self, source: str, image_format: str, snapshot: int) -> None:
        """Make the image what it was at the snapshot."""
        self._unsupported("snap_revert")

    def increment_flatten(self) -> NoReturn:
        """Merge increments of a backup: backup drivers have it."""
        self._unsupported("increment_flatten")

    def export(self, source: str, image_format: str | None) -> ExportedImage:
        """What another place needs to fetch the image."""
        self._unsupported("export")

    def snapshots(self, source: str) -> list[int]:
        """The ids of an image's snapshots, ascending."""
        self._unsupported("snapshot")

    def snap_size(self, source: str, image_format: str, snapshot: int) -> int:
        """The size in MiB, rounded up, that the image had at the snapshot."""
        self._unsupported("snapshot")

    def snap_same(self, source: str, image_format: str, snapshot: int) -> bool:
        """Whether the image is what it was at the snapshot; that reads both."""
        self._unsupported("snapshot")

    def content(self, source: str, image_format: str, snapshot: int | None = None) -> ImageChain:
        """What the image holds now, or held at a snapshot, for this host to read."""
        self._unsupported("export")


__all__ = [
    "COPY_ATTRIBUTES",
    "OPTIONAL_ACTIONS",
    "SAFE_DIRS",
    "SYSTEM_DIRS",
    "TIMEOUT",
    "Capacity",
    "CopiedImage",
    "CopyOptions",
    "DatastoreDriver",
    "DriverInfo",
    "ExportedImage",
    "ImageUse",
    "Settings",
]
