# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired virtiofs mounts of a guest: what is wanted, what fstab says and what is mounted, compared."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .._core.arguments import ArgumentSpec
from .._core.command import run
from .._core.errors import CommandFailed, Conflict, InvalidInput, NotFound, StaleState, from_os_error
from .._core.files import read_text, remove_durably, write_atomic
from .._core.locks import locked
from .._core.mount_names import check_mount_point, check_mount_tag
from .._core.mount_options import REMOUNTABLE, check_options, described, differing, kernel_words, live_settings, wanted_settings
from .._core.plan import Action, Plan
from .._host import fstab, mount_commands, mountinfo
from .._host.virtiofs_kernel import available_tags, check_virtiofs, has_virtiofs
from .module import Service

FSTYPE = "virtiofs"

VIRTIOFS_MOUNT_SPEC = ArgumentSpec(
    {
        "path": {"type": "str", "required": True},
        "tag": {"type": "str"},
        "options": {"type": "list", "elements": "str", "default": []},
        "nofail": {"type": "bool", "default": True},
        "mode": {"type": "str", "default": "0755"},
        "state": {"type": "str", "choices": ["mounted", "present", "unmounted", "absent"], "default": "mounted"},
    },
    required_if=[["state", "mounted", ["tag"]], ["state", "present", ["tag"]]],
)

VIRTIOFS_MOUNT_INFO_SPEC = ArgumentSpec({})


@dataclass(frozen=True)
class MountWish:
    """The options of the module ``virtiofs_mount``, checked. ``tag`` is ``None`` where any virtiofs mount on ``path`` is meant."""

    path: str
    tag: str | None
    options: tuple[str, ...] = ()
    nofail: bool = True
    mode: int = 0o755
    state: str = "mounted"

    @property
    def wants_mount(self) -> bool:
        return self.state == "mounted"

    @property
    def wants_entry(self) -> bool:
        return self.state in ("mounted", "present")


def read_wish(options: Mapping[str, Any]) -> MountWish:
    """:raises InvalidInput: naming the option."""
    if re.fullmatch(r"0[0-7]{3,4}", options["mode"]) is None:
        raise InvalidInput("mode", options["mode"], "a quoted octal number such as '0755' is expected")
    return MountWish(
        path=check_mount_point("path", options["path"]),
        tag=None if options["tag"] is None else check_mount_tag("tag", options["tag"]),
        options=check_options("options", options["options"]),
        nofail=options["nofail"],
        mode=int(options["mode"], 8),
        state=options["state"],
    )


class VirtiofsMountService(Service):
    """Plans one virtiofs mount, live and in fstab.

    ``etc``, ``proc`` and ``sys`` are the directories of fstab, self/mountinfo and filesystems, and fs/virtiofs.
    """

    def __init__(self, wish: MountWish, etc: str = "/etc", proc: str = "/proc", sys: str = "/sys") -> None:
        self.wish = wish
        self.fstab = os.path.join(etc, "fstab")
        self.proc = proc
        self.sys = sys

    def exclusive(self) -> contextlib.AbstractContextManager[object]:
        return locked(os.path.join(os.path.dirname(self.fstab), ".fstab.lock"))

    def plan(self) -> Plan:
        plan = Plan()
        path = self._resolved()
        live = self._live(path)
        if self.wish.wants_mount:
            self._plan_directory(plan, path)
        entry = self._plan_entry(plan, path)
        settings = self._plan_live(plan, path, live)
        tag = self.wish.tag if settings is None or live is None or self.wish.wants_mount else live.source
        plan.result["mount"] = as_result(path, tag, settings, entry)
        return plan

    # What is there

    def _mounts(self) -> list[mountinfo.Mount]:
        return read_mounts(self.proc)

    def _resolved(self) -> str:
        """The mount point as the kernel knows it. A path in its table is resolved already, and isn't touched: a dead server would block us."""
        if mountinfo.mounts_at(self._mounts(), self.wish.path):
            return self.wish.path
        return check_mount_point("path", os.path.realpath(self.wish.path))

    def _live(self, path: str) -> mountinfo.Mount | None:
        """The virtiofs mount at ``path`` that the wish is about.

        :raises Conflict: something there is in the way of it.
        """
        mounts = self._mounts()
        here = mountinfo.mounts_at(mounts, path)
        ours = [mount for mount in here if mount.fstype == FSTYPE and (self.wish.wants_mount or self.wish.tag in (None, mount.source))]
        if self.wish.state == "present" or not (ours or (here and self.wish.wants_mount)):
            return here[-1] if ours else None
        walk = mountinfo.visible(mounts, path)
        if walk[-1].mount_point != path:
            raise Conflict(f"The mount {here[-1]} is hidden by the later mount {walk[-1]}; unmount that first.")
        if len(here) > 1:
            raise Conflict(f"{len(here)} mounts are stacked on {path}, the last one is seen: {', '.join(str(mount) for mount in here)}; unmount all but one.")
        if not ours:
            raise Conflict(f"Another file system is mounted on the path: {here[0]}; unmount it, or take another path.")
        if ours[0].root != "/":
            raise Conflict(f"The path {path} is a bind mount of {ours[0].root} in {ours[0]}; unmount it, or take another path.")
        return ours[0]

    # The directory

    def _plan_directory(self, plan: Plan, path: str) -> None:
        if mountinfo.mounts_at(self._mounts(), path) or os.path.isdir(path):
            return
        missing = [path]
        while not os.path.lexists(os.path.dirname(missing[-1])):
            missing.append(os.path.dirname(missing[-1]))
        for present in (path, os.path.dirname(missing[-1])):
            if os.path.lexists(present) and not os.path.isdir(present):
                raise InvalidInput("path", self.wish.path, f"{present} exists and isn't a directory")
        for directory in reversed(missing):
            mode = self.wish.mode if directory == path else 0o755
            plan.actions.append(
                Action(
                    "create directory",
                    directory,
                    None,
                    f"mode {mode:04o}",
                    apply=functools.partial(make_directory, directory, mode),
                    undo=functools.partial(remove_directory, directory),
                )
            )

    # fstab

    def _plan_entry(self, plan: Plan, path: str) -> fstab.FstabEntry | None:
        """Add what has to be done in fstab; the answer is the entry it has afterwards."""
        text = read_text(self.fstab)
        here = [entry for entry in fstab.parse(text) if entry.mount_point in (path, self.wish.path)]
        ours = [entry for entry in here if entry.fstype == FSTYPE]
        wanted: fstab.FstabEntry | None = None
        if self.wish.wants_entry:
            foreign = [entry for entry in here if entry not in ours]
            for entry in foreign:
                raise Conflict(f"Line {entry.line} of {self.fstab} puts another file system on the path: {entry}; remove the line, or take another path.")
            wanted = fstab.FstabEntry(str(self.wish.tag), path, FSTYPE, (*self.wish.options, *(["nofail"] if self.wish.nofail else [])))
            if len(ours) == 1 and ours[0].means(wanted):
                return ours[0]
        else:
            ours = [entry for entry in ours if self.wish.tag in (None, entry.source)]
            if self.wish.state == "unmounted" or not ours:
                return ours[0] if ours else None
        existed = os.path.exists(self.fstab)
        plan.actions.append(
            Action(
                f"{'remove' if wanted is None else 'replace' if ours else 'add'} fstab entry",
                self.fstab,
                "".join(f"{entry}\n" for entry in ours) or None,
                None if wanted is None else f"{wanted}\n",
                apply=functools.partial(self._write_fstab, plan, fstab.edited(text, ours, wanted)),
                undo=functools.partial(self._write_fstab, plan, text if existed else None),
            )
        )
        return wanted

    def _write_fstab(self, plan: Plan, text: str | None) -> None:
        if text is None:
            remove_durably(self.fstab)
        else:
            write_atomic(self.fstab, text.encode("utf-8", "surrogateescape"))
        if os.path.isdir("/run/systemd/system"):  # sd_booted(3)
            try:
                run(["systemctl", "daemon-reload"])
            except CommandFailed as error:
                plan.warnings.append(f"systemd has not read the changed {self.fstab} yet: {error}")

    # What is mounted

    def _plan_live(self, plan: Plan, path: str, live: mountinfo.Mount | None) -> dict[str, str] | None:
        """Add what has to be done to the mount; the answer is its settings afterwards, ``None`` when nothing is mounted."""
        before = None if live is None else live_settings(live.options, live.super_options)
        if self.wish.state == "present":
            return before
        if not self.wish.wants_mount:
            self._add_unmount(plan, path, live, before)
            return None
        wanted = wanted_settings(self.wish.options)
        changes = set() if before is None else differing(before, wanted)
        # A device that was taken away and is back, leaves its old mount dead.
        if live is None or live.source != self.wish.tag or not changes <= REMOUNTABLE or not mount_commands.is_connected(path):
            self._check_mountable(path, wanted)
            self._add_unmount(plan, path, live, before)
            self._add_mount(plan, path, wanted)
        elif before is not None and changes:
            # A superblock that is read-only is so for every mount of the tag; the rest is a matter of this mount alone.
            superblock = "access" in changes and wanted["access"] == "rw" and "ro" in live.super_options
            plan.actions.append(
                Action(
                    "remount",
                    path,
                    describe(live.source, before),
                    describe(live.source, wanted),
                    apply=functools.partial(self._remount, live, path, before, wanted, superblock),
                    undo=functools.partial(self._remount, live, path, wanted, before, superblock),
                )
            )
        return wanted

    def _check_mountable(self, path: str, wanted: Mapping[str, str]) -> None:
        check_virtiofs(self.proc)
        self._check_tag()
        for mount in self._mounts():
            if mount.fstype == FSTYPE and mount.source == self.wish.tag and mount.mount_point != path:
                changes = differing(live_settings(mount.options, mount.super_options), wanted) - REMOUNTABLE
                if changes:
                    raise Conflict(
                        f"The tag {mount.source} is mounted on {mount.mount_point} too, and all its mounts have the same {', '.join(sorted(changes))}: "
                        "unmount that one, or give both the same options."
                    )

    def _check_tag(self) -> None:
        tags = available_tags(self.sys)
        if tags is not None and self.wish.tag not in tags:
            known = f"the tags are {', '.join(map(repr, tags))}" if tags else "it has no virtio-fs device"
            raise NotFound(f"tag: This machine has no virtio-fs device with the tag {self.wish.tag!r}: {known}.")

    def _add_mount(self, plan: Plan, path: str, wanted: Mapping[str, str]) -> None:
        plan.actions.append(
            Action(
                "mount",
                path,
                None,
                describe(str(self.wish.tag), wanted),
                apply=functools.partial(self._mount, str(self.wish.tag), path, wanted),
                undo=functools.partial(mount_commands.unmount, path),
            )
        )

    def _add_unmount(self, plan: Plan, path: str, live: mountinfo.Mount | None, settings: Mapping[str, str] | None) -> None:
        if live is None or settings is None:
            return
        plan.actions.append(
            Action(
                "unmount",
                path,
                describe(live.source, settings),
                None,
                apply=functools.partial(self._unmount, live),
                undo=functools.partial(self._mount, live.source, path, settings),
            )
        )

    def _mount(self, tag: str, path: str, settings: Mapping[str, str]) -> None:
        if os.path.realpath(path) != path:
            raise StaleState(f"The path {path} became a symbolic link after it was checked; nothing was mounted.")
        try:
            mount_commands.mount(FSTYPE, tag, path, kernel_words(settings))
        except CommandFailed as error:
            self._check_tag()  # the kernel tells the tags once it has loaded the module
            raise CommandFailed(f"{error} Tag {tag!r} on {path}: does this machine have a virtio-fs device with that tag?") from error
        mounted = mountinfo.mounts_at(self._mounts(), path)[-1]
        if settings["access"] == "rw" and "ro" in mounted.super_options:  # another mount of the tag was there first, and shares its superblock
            mount_commands.remount(FSTYPE, tag, path, kernel_words(settings, ["access"]), superblock=True)

    def _remount(self, live: mountinfo.Mount, path: str, before: Mapping[str, str], after: Mapping[str, str], superblock: bool) -> None:
        self._check_still(live)
        mount_commands.remount(FSTYPE, live.source, path, kernel_words(after, differing(before, after)), superblock=superblock)

    def _unmount(self, live: mountinfo.Mount) -> None:
        self._check_still(live)
        mount_commands.unmount(live.mount_point)

    def _check_still(self, live: mountinfo.Mount) -> None:
        """umount(8) takes a path: make sure that what is mounted there is what was planned for."""
        if [mount.mount_id for mount in mountinfo.mounts_at(self._mounts(), live.mount_point)] != [live.mount_id]:
            raise StaleState(f"What is mounted on {live.mount_point} changed after it was checked; nothing was unmounted.")


def make_directory(path: str, mode: int) -> None:
    try:
        os.mkdir(path)
        os.chmod(path, mode)  # whatever the umask is
    except OSError as error:
        raise from_os_error(error, f"create the directory {path}") from error


def remove_directory(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError as error:
        raise from_os_error(error, f"remove the directory {path}") from error


def read_mounts(proc: str = "/proc") -> list[mountinfo.Mount]:
    return mountinfo.parse(read_text(os.path.join(proc, "self", "mountinfo")))


def describe(tag: str, settings: Mapping[str, str]) -> str:
    return f"{tag} type {FSTYPE} ({','.join(described(settings))})\n"


def as_result(path: str, tag: str | None, settings: Mapping[str, str] | None, entry: fstab.FstabEntry | None) -> dict[str, object]:
    return {
        "path": path,
        "tag": tag,
        "live": None if settings is None else described(settings),
        "fstab": None if entry is None else list(entry.options),
    }


def virtiofs_mount_info(etc: str = "/etc", proc: str = "/proc", sys: str = "/sys") -> Mapping[str, object]:
    """Every virtiofs mount of this machine, live or in fstab, and the tags it has."""
    entries = [entry for entry in fstab.parse(read_text(os.path.join(etc, "fstab"))) if entry.fstype == FSTYPE]
    mounts: list[dict[str, object]] = []
    for mount in read_mounts(proc):
        if mount.fstype == FSTYPE:
            entry = _taken(entries, mount)
            found = as_result(mount.mount_point, mount.source, live_settings(mount.options, mount.super_options), entry)
            mounts.append({**found, "connected": _is_connected(mount.mount_point)})
    mounts += [{**as_result(entry.mount_point, entry.source, None, entry), "connected": False} for entry in entries]
    return {"mounts": mounts, "tags": available_tags(sys), "supported": has_virtiofs(proc)}


def _is_connected(path: str) -> bool:
    try:
        return mount_commands.is_connected(path)
    except CommandFailed:
        return False


def _taken(entries: list[fstab.FstabEntry], mount: mountinfo.Mount) -> fstab.FstabEntry | None:
    """The entry for ``mount``, taken out of ``entries``."""
    for entry in entries:
        if (entry.mount_point, entry.source) == (mount.mount_point, mount.source):
            entries.remove(entry)
            return entry
    return None


__all__ = ["VIRTIOFS_MOUNT_INFO_SPEC", "VIRTIOFS_MOUNT_SPEC", "MountWish", "VirtiofsMountService", "read_wish", "virtiofs_mount_info"]
