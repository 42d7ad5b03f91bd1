# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""NFS mounts: sources, and mount options by nfs(5) and as the kernel shows them."""

from __future__ import annotations

import ipaddress
import platform
import re
from collections.abc import Mapping, Sequence

from ..._core.errors import CommandFailed, DependencyMissing, InvalidInput
from ..._core.paths import absolute
from .file_system import FileSystemType
from .helpers import has_helper
from .options import OptionRules

#: Options for virtual disks, each for a setting that the user left open. A hard mount waits for its server, so that a
#: write is never lost silently. Version 4.2 has sparse files and server-side copies.
RECOMMENDED = ("vers=4.2", "hard")

#: Number of connections to a server (nfs(5), "nconnect"), and the first kernel that has the option.
CONNECTIONS = 4
NCONNECT_SINCE = (5, 3)

_VERSIONS = ("3", "4", "4.0", "4.1", "4.2")
#: Settings of version 3, with the words that change nothing in version 4.
_ONLY_VERSION_3: Mapping[str, tuple[str, ...]] = {"lock": ("lock",), "local_lock": ("local_lock=none",)}
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
#: The name of a network interface at the end of a link-local address (RFC 4007, section 11).
_ZONE = re.compile(r"(%[A-Za-z0-9._-]+)?")


class NfsOptions(OptionRules):
    """The options of nfs(5)."""

    def agrees(self, setting: str, live: str, desired: str) -> bool:
        name, _equals, wanted = desired.partition("=")
        found = live.partition("=")[2]
        if not live:  # a file system in user space shows fewer options
            return True
        if name == "vers" and wanted == "4":
            return found.startswith("4")
        if name in ("rsize", "wsize") and found.isdigit() and wanted.isdigit():
            return int(found) <= int(wanted)  # the server has a bound of its own
        return live == desired


NFS_OPTIONS = NfsOptions(
    values={
        **dict.fromkeys(
            """vers proto rsize wsize sec local_lock nconnect max_connect retry mountport mountproto mountvers mountaddr
            mounthost""".split(),
            "",
        ),
        **{"port": "port=2049", "xprtsec": "xprtsec=none"},
        **{"timeo": "timeo=600", "retrans": "retrans=2", "lookupcache": "lookupcache=all"},
        **{"acregmin": "acregmin=3", "acregmax": "acregmax=60", "acdirmin": "acdirmin=30", "acdirmax": "acdirmax=60"},
        **{"write": "write=lazy"},
    },
    synonyms={
        **{"tcp": "proto=tcp", "udp": "proto=udp", "rdma": "proto=rdma", "nfsvers=": "vers={}"},
        **{f"v{version}": f"vers={version}" for version in _VERSIONS},
        **{"actimeo=": "acregmin={},acregmax={},acdirmin={},acdirmax={}"},
        **{"noac": "noac,sync,acregmin=0,acregmax=0,acdirmin=0,acdirmax=0"},
        **{"lookupcache=positive": "lookupcache=pos"},
    },
    advice="To mount a subdirectory, name it in the source",
    choices={
        "hard": ("hard", "soft", "softerr"),
        "cto": ("cto", "nocto"),
        "ac": ("ac", "noac"),
        "lock": ("lock", "nolock"),
        "sharecache": ("sharecache", "nosharecache"),
        "resvport": ("resvport", "noresvport"),
        "rdirplus": ("rdirplus", "nordirplus"),
        "acl": ("acl", "noacl"),
        "fsc": ("nofsc", "fsc"),
        "migration": ("nomigration", "migration"),
        "softreval": ("nosoftreval", "softreval"),
        "trunkdiscovery": ("trunkdiscovery", "notrunkdiscovery"),
    },
    negotiated=frozenset(("vers", "proto", "rsize", "wsize", "port", "sec", "local_lock", "xprtsec")),
    # The first mount of a server decides on the number of connections.
    hidden=frozenset(
        """nconnect max_connect retry mountport mountproto mountvers mountaddr mounthost softreval trunkdiscovery
        write sharecache""".split()
    ),
    only_fstab=frozenset(("bg", "fg", "intr", "nointr")),
)


class Nfs(FileSystemType):
    """The types nfs and nfs4. The kernel shows nfs4 for version 4 and nfs for version 3.

    :arg name: the type for fstab.
    """

    source_noun = "source"
    options = NFS_OPTIONS
    can_be_tried = True
    fstab_words = ("_netdev",)

    def __init__(self, name: str = "nfs") -> None:
        self.name = name

    def matches_type(self, fstype: str) -> bool:
        # The last two are clients in user space.
        return fstype in ("nfs", "nfs4", "fuse.nfs", "fuse.nfs4")

    def check_source(self, option: str, source: str) -> str:
        accepted = (
            "a source such as 'server:/directory', '192.0.2.1:/directory' or '[2001:db8::1]:/directory' is expected"
        )
        found = re.fullmatch(r"(\[[^\]/]*\]|[^:/\[\]]+):(/.*)", source, re.DOTALL)
        if found is None or not _is_host(found[1]):
            raise InvalidInput(option, source, accepted)
        try:
            return f"{found[1]}:{absolute(option, found[2])}"
        except InvalidInput as error:
            raise InvalidInput(option, source, f"for the directory of the server, {error.accepted}") from error

    def is_same_source(self, found: str, source: str) -> bool:
        return found == source or re.sub("/+", "/", found).rstrip("/") == source.rstrip("/")

    def complete(self, words: Sequence[str]) -> tuple[str, ...]:
        given = {setting for word in words for setting in self.options.settings_in(word)}
        recommended = [*RECOMMENDED, *([f"nconnect={CONNECTIONS}"] if _has_nconnect() else [])]
        completed = (*words, *(word for word in recommended if not given.intersection(self.options.settings_in(word))))
        self._check_version(self.options.desired_settings(completed))
        return completed

    def _check_version(self, settings: Mapping[str, str]) -> None:
        word = settings["vers"]
        version = word.partition("=")[2]
        if version not in _VERSIONS:
            raise InvalidInput("options", word, f"one of the versions {', '.join(_VERSIONS)} is expected")
        if version != "3":
            for setting in _ONLY_VERSION_3:
                if settings.get(setting) not in (None, *_ONLY_VERSION_3[setting]):
                    raise InvalidInput(
                        "options",
                        settings[setting],
                        "only version 3 has this option, because the protocol of version 4 includes locks",
                    )
        elif self.name == "nfs4":
            raise InvalidInput("options", word, "the type nfs4 has the versions 4, 4.0, 4.1 and 4.2; use the type nfs")

    def for_trial(self, settings: Mapping[str, str]) -> dict[str, str]:
        if settings["vers"] != "vers=3":
            return dict(settings)
        # For locks of version 3, mount.nfs starts rpc.statd. That daemon would keep the mount in the namespace.
        others = {setting: word for setting, word in settings.items() if setting != "local_lock"}
        return {**others, "lock": "nolock"}

    def warnings(self, words: Sequence[str]) -> list[str]:
        settings = self.options.desired_settings(words)
        found = []
        if settings["hard"] != "hard":
            found.append(
                f"With the option {settings['hard']}, a write fails when the server is away for longer than its "
                "timeouts, and a virtual disk loses data: use hard."
            )
        if settings["lock"] == "nolock" or settings.get("local_lock", "local_lock=none") != "local_lock=none":
            found.append(
                "Locks hold on this host only, so that two hosts can open the same virtual disk for writing: leave out "
                "nolock and local_lock."
            )
        return found

    def require_supported(self) -> None:
        if not has_helper(self.name):
            raise DependencyMissing(
                f"This host has no mount.{self.name}: install the package nfs-common (Debian, Ubuntu) or nfs-utils."
            )

    def explain(self, error: CommandFailed, source: str, path: str) -> CommandFailed:
        server, _colon, directory = source.partition(":/")
        reasons = {
            "access denied": f"the server {server} doesn't export /{directory} to this host, or not by this version",
            "No such file or directory": f"the server {server} doesn't export /{directory}",
            "Connection refused": f"no NFS server listens on {server}",
            "Connection timed out": f"the server {server} doesn't respond",
            "No route to host": f"this host has no route to the server {server}",
            "Network is unreachable": f"this host has no route to the server {server}",
            "resolve": f"the name {server} can't be resolved",
            "rotocol is not supported": f"the server {server} doesn't have the requested version or protocol of NFS",
            "Protocol not supported": f"the server {server} doesn't have the requested version or protocol of NFS",
            "did not end within": f"the server {server} doesn't respond, or is very busy",
        }
        text = str(error).replace(source, "").replace(path, "")  # they may have the words of a reason
        reason = next((meaning for words, meaning in reasons.items() if words in text), None)
        return error if reason is None else CommandFailed(f"{source} can't be mounted on {path}: {reason}. {error}")


def _is_host(name: str) -> bool:
    if name.startswith("["):
        address, percent, zone = name[1:-1].partition("%")
        try:
            ipaddress.IPv6Address(address)
        except ValueError:
            return False
        return _ZONE.fullmatch(percent + zone) is not None
    return _HOST.fullmatch(name) is not None


def _has_nconnect() -> bool:
    found = re.match(r"([0-9]+)\.([0-9]+)", platform.release())
    return found is not None and (int(found[1]), int(found[2])) >= NCONNECT_SINCE


__all__ = ["NFS_OPTIONS", "Nfs"]
