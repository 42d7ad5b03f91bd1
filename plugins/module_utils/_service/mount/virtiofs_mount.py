# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Desired virtiofs mounts of a guest: what is wanted, what fstab says and what is mounted, compared."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..._core.arguments import ArgumentSpec
from ..._core.command import run
from ..._core.errors import CommandFailed, Conflict, DependencyNotFound, InvalidInput, StaleState
from ..._core.files import read_text, remove_durably, write_atomic
from ..._core.locks import locked
from ..._core.paths import absolute, is_within
from ..._core.plan import Action, Plan
from ..._core.records import dataclass
from ..._host.mount import commands as mount_commands
from ..._host.mount import fstab, mountinfo
from ..._host.mount import point as mount_point
from ..._host.mount.options import (
    REMOUNTABLE,
    check_options,
    described,
    differing,
    kernel_words,
    live_settings,
    wanted_settings,
)
from ..._host.virtiofsd.kernel import available_tags, check_virtiofs, has_virtiofs
from ..._model.mount_names import check_mount_point, check_mount_tag
from ..service import Service

FSTYPE = "virtiofs"

#: Upper bound of the names in a warning about a directory that isn't empty.
MOST_NAMES = 5

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
    """The options of the module ``virtiofs_mount``, checked.

    ``tag`` is ``None`` where any virtiofs mount on ``path`` is meant.
    """

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
        path=absolute("path", options["path"]),
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
        path, missing = self._resolved()
        if self.wish.wants_entry:  # a mount on any other path can still be taken away
            self._check_point(path, missing)
        live = self._live(path)
        if self.wish.wants_mount:
            self._plan_directory(plan, path, missing)
        entry = self._plan_entry(plan, path)
        settings = self._plan_live(plan, path, live)
        tag = self.wish.tag if settings is None or live is None or self.wish.wants_mount else live.source
        plan.result["mount"] = as_result(path, tag, settings, entry)
        return plan

    # What is there

    def _mounts(self) -> list[mountinfo.Mount]:
        return read_mounts(self.proc)

    def _resolved(self) -> tuple[str, list[str]]:
        """Return the mount point as the kernel knows it, and the paths of the directories in it that are missing.

        A path in the kernel's table is resolved already, and isn't touched: a dead server would block us.
        """
        mounts = self._mounts()
        if mountinfo.mounts_at(mounts, self.wish.path):
            return self.wish.path, []
        parent, name = os.path.split(self.wish.path)
        path, missing = mount_point.resolve(parent, option="path")
        path = os.path.join(path, name)
        return (
            (path, missing) if mountinfo.mounts_at(mounts, path) else mount_point.resolve(self.wish.path, option="path")
        )

    def _check_point(self, path: str, missing: Sequence[str]) -> None:
        parent, name = os.path.split(path)
        for point in (path, *(os.path.join(alias, name) for alias in mountinfo.aliases(self._mounts(), parent))):
            check_mount_point("path", point)
        if missing and os.path.lexists(missing[0]):
            raise InvalidInput("path", self.wish.path, f"{missing[0]} exists and isn't a directory")

    def _live(self, path: str) -> mountinfo.Mount | None:
        """The virtiofs mount at ``path`` that the wish is about.

        :raises Conflict: something there is in the way of it.
        """
        mounts = self._mounts()
        here = mountinfo.mounts_at(mounts, path)
        ours = [
            mount
            for mount in here
            if mount.fstype == FSTYPE and (self.wish.wants_mount or self.wish.tag in (None, mount.source))
        ]
        if self.wish.state == "present" or not (ours or (here and self.wish.wants_mount)):
            return here[-1] if ours else None
        walk = mountinfo.visible(mounts, path)
        if walk[-1].mount_point != path:
            raise Conflict(f"The mount {here[-1]} is hidden by the later mount {walk[-1]}; unmount that first.")
        if len(here) > 1:
            raise Conflict(
                f"{len(here)} mounts are stacked on {path}, the last one is seen: "
                f"{', '.join(str(mount) for mount in here)}; unmount all but one."
            )
        if not ours:
            raise Conflict(f"Another file system is mounted on the path: {here[0]}; unmount it, or take another path.")
        if ours[0].root != "/":
            raise Conflict(
                f"The path {path} is a bind mount of {ours[0].root} in {ours[0]}; unmount it, or take another path."
            )
        return ours[0]

    # The directory

    def _plan_directory(self, plan: Plan, path: str, missing: Sequence[str]) -> None:
        for directory in missing:
            mode = self.wish.mode if directory == path else 0o755
            plan.actions.append(
                Action(
                    "create directory",
                    directory,
                    None,
                    f"mode {mode:04o}",
                    record=functools.partial(mount_point.create, directory, mode),
                    undo=functools.partial(mount_point.remove, directory),
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
                raise Conflict(
                    f"Line {entry.line} of {self.fstab} puts another file system on the path: {entry}; remove the "
                    "line, or take another path."
                )
            wanted = fstab.FstabEntry(
                str(self.wish.tag), path, FSTYPE, (*self.wish.options, *(["nofail"] if self.wish.nofail else []))
            )
            if len(ours) == 1 and ours[0].means(wanted):
                return ours[0]
        else:
            ours = [entry for entry in ours if self.wish.tag in (None, entry.source)]
            if self.wish.state == "unmounted" or not ours:
                return ours[0] if ours else None
        changeable = None if wanted is None else mount_point.changeable_by_others(path)
        if changeable is not None:
            plan.warnings.append(
                f"Another user than root can replace {changeable} by a symbolic link, and a boot would mount the tag "
                "where that leads: "
                "take a mount point in a directory that only root can change."
            )
        existed = os.path.exists(self.fstab)
        plan.actions.append(
            Action(
                f"{'remove' if wanted is None else 'replace' if ours else 'add'} fstab entry",
                self.fstab,
                "".join(f"{entry}\n" for entry in ours) or None,
                None if wanted is None else f"{wanted}\n",
                record=functools.partial(self._write_fstab, plan, fstab.edited(text, ours, wanted)),
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
        """Add what has to be done to the mount; the answer is its settings afterwards, ``None`` when nothing is
        mounted.
        """
        before = None if live is None else live_settings(live.options, live.super_options)
        if self.wish.state == "present":
            return before
        if not self.wish.wants_mount:
            self._add_unmount(plan, path, live, before)
            return None
        wanted = wanted_settings(self.wish.options)
        changes = set() if before is None else differing(before, wanted)
        # A device that was taken away and is back, leaves its old mount dead.
        if (
            live is None
            or live.source != self.wish.tag
            or not changes <= REMOUNTABLE
            or not mount_commands.is_connected(path)
        ):
            self._check_mountable(plan, path, wanted)
            if live is None:
                self._check_hidden(plan, path)
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
                    record=functools.partial(self._remount, live, before, wanted, superblock),
                    undo=functools.partial(self._remount, live, wanted, before, superblock),
                )
            )
        return wanted

    def _check_mountable(self, plan: Plan, path: str, wanted: Mapping[str, str]) -> None:
        check_virtiofs(self.proc)
        try:
            self._check_tag()
        except DependencyNotFound as error:
            self.lack(plan, error, is_planned=True)
        for mount in self._mounts():
            if mount.fstype == FSTYPE and mount.source == self.wish.tag and mount.mount_point != path:
                changes = differing(live_settings(mount.options, mount.super_options), wanted) - REMOUNTABLE
                if changes:
                    raise Conflict(
                        f"The tag {mount.source} is mounted on {mount.mount_point} too, and all its mounts have the "
                        f"same {', '.join(sorted(changes))}: "
                        "unmount that one, or give both the same options."
                    )

    def _check_hidden(self, plan: Plan, path: str) -> None:
        """Warn of files that the mount hides.

        :raises Conflict: it would hide another mount.
        """
        for mount in self._mounts():
            if is_within(mount.mount_point, path):
                raise Conflict(
                    f"The mount {mount} would be hidden by a mount on {path}; unmount that first, or take another path."
                )
        names = mount_point.content(path) if os.path.isdir(path) else []
        if names:
            shown = ", ".join(map(repr, names[:MOST_NAMES])) + (" and others" if len(names) > MOST_NAMES else "")
            plan.warnings.append(
                f"The directory {path} is not empty; while the tag is mounted there, its content can't be seen: "
                f"{shown}."
            )

    def _check_tag(self) -> None:
        tags = available_tags(self.sys)
        if tags is not None and self.wish.tag not in tags:
            known = f"the tags are {', '.join(map(repr, tags))}" if tags else "it has no virtio-fs device"
            raise DependencyNotFound(
                f"tag: This machine has no virtio-fs device with the tag {self.wish.tag!r}: {known}."
            )

    def _add_mount(self, plan: Plan, path: str, wanted: Mapping[str, str]) -> None:
        plan.actions.append(
            Action(
                "mount",
                path,
                None,
                describe(str(self.wish.tag), wanted),
                record=functools.partial(self._mount, str(self.wish.tag), path, wanted),
                undo=functools.partial(self._unmount_last, path),
            )
        )

    def _add_unmount(
        self, plan: Plan, path: str, live: mountinfo.Mount | None, settings: Mapping[str, str] | None
    ) -> None:
        if live is None or settings is None:
            return
        plan.actions.append(
            Action(
                "unmount",
                path,
                describe(live.source, settings),
                None,
                record=functools.partial(mount_commands.unmount, live),
                undo=functools.partial(self._mount, live.source, path, settings),
            )
        )

    def _mount(self, tag: str, path: str, settings: Mapping[str, str]) -> None:
        before = {mount.mount_id for mount in self._mounts()}
        try:
            mount_commands.mount(FSTYPE, tag, path, kernel_words(settings))
        except CommandFailed as error:
            self._check_tag()  # the kernel tells the tags once it has loaded the module
            raise CommandFailed(
                f"{error} Tag {tag!r} on {path}: does this machine have a virtio-fs device with that tag?"
            ) from error
        try:
            mounted = self._last(path)
            if (
                settings["access"] == "rw" and "ro" in mounted.super_options
            ):  # another mount of the tag was there first, and shares its superblock
                mount_commands.remount(mounted, kernel_words(settings, ["access"]), superblock=True)
            self._check_settings(path, settings)
        except BaseException:
            # Where a directory above was renamed meanwhile, the mount is at another path.
            for made in self._mounts():
                if made.mount_id not in before and (made.fstype, made.source) == (FSTYPE, tag):
                    mount_commands.unmount(made)
            raise

    def _remount(
        self, live: mountinfo.Mount, before: Mapping[str, str], after: Mapping[str, str], superblock: bool
    ) -> None:
        changes = differing(before, after)
        mount_commands.remount(live, kernel_words(after, changes), superblock=superblock)
        try:
            self._check_settings(live.mount_point, after)
        except CommandFailed:
            mount_commands.remount(live, kernel_words(before, changes), superblock=superblock)
            raise

    def _last(self, path: str) -> mountinfo.Mount:
        """Return what is mounted last on ``path``."""
        here = mountinfo.mounts_at(self._mounts(), path)
        if not here:
            raise StaleState(
                f"The mount point {path} was moved to another path while the tag was being mounted; it is not mounted."
            )
        return here[-1]

    def _unmount_last(self, path: str) -> None:
        mount_commands.unmount(self._last(path))

    def _check_settings(self, path: str, settings: Mapping[str, str]) -> None:
        """:raises CommandFailed: the kernel mounted with others."""
        mounted = self._last(path)
        found = live_settings(mounted.options, mounted.super_options)
        changes = differing(found, settings)
        if changes:
            got, wanted = (", ".join(repr(one[setting]) for setting in sorted(changes)) for one in (found, settings))
            raise CommandFailed(
                f"The kernel mounted {mounted} with {got} instead of {wanted}; it does not support that for virtiofs."
            )


def read_mounts(proc: str = "/proc") -> list[mountinfo.Mount]:
    return mountinfo.parse(read_text(os.path.join(proc, "self", "mountinfo")))


def describe(tag: str, settings: Mapping[str, str]) -> str:
    return f"{tag} type {FSTYPE} ({','.join(described(settings))})\n"


def as_result(
    path: str, tag: str | None, settings: Mapping[str, str] | None, entry: fstab.FstabEntry | None
) -> dict[str, object]:
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


__all__ = [
    "VIRTIOFS_MOUNT_INFO_SPEC",
    "VIRTIOFS_MOUNT_SPEC",
    "MountWish",
    "VirtiofsMountService",
    "read_wish",
    "virtiofs_mount_info",
]
