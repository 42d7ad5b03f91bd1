# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The service of the module ``vm_context``: a context image on this host, rebuilt when its content changes."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import stat
from collections.abc import Mapping
from typing import Any

from ..._core.directory import is_writable_for_others, opened_parent, sync_opened
from ..._core.errors import (
    DependencyMissing,
    DependencyNotFound,
    InvalidInput,
    PathNotAllowed,
    StaleState,
    from_os_error,
    os_errors,
)
from ..._core.files import replace_file
from ..._core.paths import real_path
from ..._core.plan import Action, Plan
from ..._host.made_directory import Ownership
from ..._host.open_files import open_files
from ..._image.iso_image import IsoLabels, iso_bytes, missing_xorriso
from ..._image.iso_sources import add_sources
from ..directory import group_id, group_name, user_id, user_name
from ..service import Service
from .description import FORMATS, describe
from .desired import parse_context
from .existing import ExistingImage, identify, read_existing

#: The mode of a new image. An image often has passwords.
NEW_MODE = 0o640


class ContextService(Service):
    """Plan a context image."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.spec = parse_context(options)
        self.path = self.spec.path
        if self.path == "/":
            raise InvalidInput("path", self.path, "the path of an image is expected")

    def plan(self) -> Plan:
        plan = Plan({"context": {"path": self.path}})
        if self.spec.labels is None:
            existing = self._look_for_removal()
            if existing is not None:
                self._plan_removal(plan, existing)
            return plan
        contents = add_sources(self.spec.files, self.spec.sources)
        existing, default = self._look()
        wanted = self._ownership(existing, default)
        result: dict[str, object] = {
            "path": self.path,
            "format": FORMATS[self.spec.labels.volume_id],
            "files": sorted(contents),
            "size": None,
            "checksum": None,
            **_name(wanted),
        }
        plan.result["context"] = result
        if existing is not None and (existing.labels, existing.files, existing.ownership) == (
            self.spec.labels,
            contents,
            wanted,
        ):
            result.update(_measure(existing.data))
        else:
            self._plan_image(plan, existing, self.spec.labels, contents, wanted, result)
        return plan

    def _look_for_removal(self) -> ExistingImage | None:
        try:
            with opened_parent(self.path) as (directory, name):
                return read_existing(directory, name, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise from_os_error(error, f"read {self.path}") from error

    def _look(self) -> tuple[ExistingImage | None, Ownership]:
        """Return the existing image, and the ownership that an image gets by default.

        :raises DependencyNotFound: the directory is missing.
        :raises PathNotAllowed: every user can write in the directory.
        """
        around = os.path.dirname(self.path)
        try:
            with opened_parent(self.path) as (directory, name):
                status = os.fstat(directory)
                if status.st_mode & stat.S_IWOTH:
                    accepted = (
                        f"every user can write in {around}, and put another image there; another directory is expected"
                    )
                    raise PathNotAllowed("path", self.path, accepted)
                existing = read_existing(directory, name, self.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise DependencyNotFound(f"path: this host has no directory {around}.") from error
        except OSError as error:
            raise from_os_error(error, f"read {self.path}") from error
        # libvirt gives the image of a running domain to the user of QEMU, so an existing owner is kept. But a member of
        # a group that may write in the directory could have put the image there, to read the next one.
        trusted = (0, os.geteuid(), status.st_uid)
        if existing is not None and (existing.ownership.uid in trusted or not is_writable_for_others(status)):
            return existing, existing.ownership
        if os.geteuid() == 0:
            return existing, Ownership(status.st_uid, status.st_gid, NEW_MODE)
        return existing, Ownership(os.geteuid(), os.getegid(), NEW_MODE)

    def _ownership(self, existing: ExistingImage | None, default: Ownership) -> Ownership:
        """Return the desired ownership. Options that aren't given leave the default.

        :raises DependencyNotFound: this host lacks the user or the group.
        """
        uid, gid = user_id(self.spec.owner), group_id(self.spec.group)
        for option, name, number in (("owner", self.spec.owner, uid), ("group", self.spec.group, gid)):
            if name is not None and number is None:
                kind = "user" if option == "owner" else option
                raise DependencyNotFound(f"{option}: this host has no {kind} {name!r}.")
        return Ownership(
            default.uid if uid is None else uid,
            default.gid if gid is None else gid,
            default.mode if self.spec.mode is None else self.spec.mode,
        )

    def _plan_image(
        self,
        plan: Plan,
        existing: ExistingImage | None,
        labels: IsoLabels,
        contents: Mapping[str, bytes],
        wanted: Ownership,
        result: Mapping[str, object],
    ) -> None:
        if shutil.which("xorriso") is None:
            self.report_missing(plan, DependencyMissing(str(missing_xorriso())), is_planned=True)
        before = None if existing is None else _describe(existing)
        after = {**describe(labels, contents, None if existing is None else existing.files), **_name(wanted)}

        def record() -> None:
            image = iso_bytes(labels, contents)
            with os_errors(f"write {self.path}"), opened_parent(self.path) as (directory, name):
                self._require_unchanged(directory, name, existing)
                _replace(directory, name, image, wanted)
            plan.result["context"] = {**result, **_measure(image)}

        verb = "create" if existing is None else "replace"
        plan.actions.append(
            Action(f"{verb} context image", self.path, before, after, record, functools.partial(self._undo, existing))
        )
        if existing is not None:
            programs = _programs(self.path)
            if programs:
                plan.warn_once(
                    f"{self.path} is open in {programs}, which reads the image before this change until the medium is "
                    "changed (virsh change-media) or the domain is shut down and started."
                )

    def _plan_removal(self, plan: Plan, existing: ExistingImage) -> None:
        record = functools.partial(self._remove, existing)
        plan.actions.append(
            Action(
                "remove context image",
                self.path,
                _describe(existing),
                None,
                record,
                functools.partial(self._undo, existing),
            )
        )
        programs = _programs(self.path)
        if programs:
            plan.warn_once(
                f"{self.path} is open in {programs}, and a domain without the image of its CD-ROM drive doesn't start: "
                "remove the drive."
            )

    def _remove(self, existing: ExistingImage) -> None:
        with os_errors(f"remove {self.path}"), opened_parent(self.path) as (directory, name):
            self._require_unchanged(directory, name, existing)
            os.unlink(name, dir_fd=directory)
            sync_opened(directory)

    def _undo(self, existing: ExistingImage | None) -> None:
        with os_errors(f"write {self.path}"), opened_parent(self.path) as (directory, name):
            if existing is None:
                os.unlink(name, dir_fd=directory)
                sync_opened(directory)
            else:
                _replace(directory, name, existing.data, existing.ownership)

    def _require_unchanged(self, directory: int, name: str, existing: ExistingImage | None) -> None:
        """Refuse to replace a file that another program has written since it was read.

        :raises StaleState: the file isn't the existing image.
        """
        if identify(directory, name) != (None if existing is None else existing.identity):
            raise StaleState(
                f"path: {self.path} was changed by another program meanwhile; nothing was changed, run it again."
            )


def _replace(directory: int, name: str, image: bytes, ownership: Ownership) -> None:
    owner = (ownership.uid, ownership.gid)
    replace_file(directory, name, image, ownership.mode, owner, keeps_attributes=False)


def _describe(existing: ExistingImage) -> dict[str, object]:
    return {**describe(existing.labels, existing.files), **_name(existing.ownership)}


def _name(ownership: Ownership) -> dict[str, object]:
    return {
        "owner": user_name(ownership.uid),
        "group": group_name(ownership.gid),
        "mode": f"{ownership.mode:04o}",
    }


def _measure(image: bytes) -> dict[str, object]:
    return {"size": len(image), "checksum": f"sha256:{hashlib.sha256(image).hexdigest()}"}


def _programs(path: str) -> str:
    """Return the programs that have the image open, as words of a sentence."""
    real = real_path(path)
    return ", ".join(open_files(os.path.dirname(real)).get(real, ()))


__all__ = ["NEW_MODE", "ContextService"]
