# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The filesystems of a declaration: virtiofs exports of images, and of directories with texts."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
from collections.abc import Callable, Collection, Mapping
from typing import Any

from ..._core.errors import InvalidInput, UnsupportedAction, os_errors
from ..._core.plan import Action
from ..._core.records import dataclass, replace
from ..._host.ids.idmap_check import host_id
from ..._host.passing import let_only_pass
from ..._host.text_directory import TextDirectory
from ..._image.volume_files import make_passable
from ..._libvirt.connection import Hypervisor
from ..._libvirt.devices.filesystem import VirtioFs
from ..._model.domain_volumes import DomainVolumes
from ..._model.volume_disks import FilesystemSpec
from ..._model.volume_sources import DataVolume, PersistentVolumeClaim
from ..._volume.connection import source_option
from ..._volume.media import GuestFiles
from ..domain_restart import RestartPlan
from ..export.absent import plan_absent
from ..export.identity import daemon_user, decide_maps
from ..export.options import VIRTIOFS_EXPORT_SPEC, ExportSpec, parse_options
from ..export.present import plan_present
from ..export.running import plan_plug
from ..export.support import check_read_only, find_support
from .claims import Claims

#: The directory with the texts of a domain's filesystems, in the directory of the domain.
DIRECTORY = "filesystems"


@dataclass(frozen=True)
class DomainFilesystems:
    """The filesystems of one domain.

    :arg directory: the directory of the domain's files on this host.
    """

    hypervisor: Hypervisor
    domain: str
    uri: str
    catalog: str
    directory: str
    spec: DomainVolumes
    files: GuestFiles
    claims: Claims

    def plan_texts(self, plan: RestartPlan) -> None:
        """Add to ``plan`` the actions that write the texts of filesystems. Texts that the last run replaced are removed
        when nobody can be reading them any more: in a run that finds the new ones.

        :raises UnsupportedAction: the host can't map the guest's ids.
        """
        found = ((one, self._texts_of(one)) for one in self.spec.filesystems)
        made = [(one, texts) for one, texts in found if texts is not None]
        passing = {uid for one, _texts in made for uid in self._daemon_ids(one)}
        for one, texts in made:
            directory = TextDirectory(self._text_path(one.name))
            action = _text_action(directory, texts, passing)
            if action is not None:
                plan.actions.append(action)
            else:
                plan.afterwards.append(directory.sweep)

    def _daemon_ids(self, filesystem: FilesystemSpec) -> set[int]:
        """Return the users as which virtiofsd opens the directory of a filesystem."""
        user, support = daemon_user(None), find_support(self.hypervisor, None)
        maps = decide_maps(
            filesystem.uid_map or None,
            filesystem.gid_map or None,
            user=user,
            obstacle=support.obstacle,
            allow_unmapped=filesystem.allow_unmapped,
        )
        return {pwd.getpwnam(user).pw_uid, host_id(maps[0], 0) or 0} if maps[0] else {0}

    def plan_cleanup(self) -> RestartPlan:
        """Return the plan that removes directories with texts that no filesystem has any more."""
        kept = {filesystem.name for filesystem in self.spec.filesystems if self._texts_of(filesystem) is not None}
        around = os.path.join(self.directory, DIRECTORY)
        names = sorted(set(os.listdir(around)) - kept) if os.path.isdir(around) else []
        return RestartPlan(actions=[self._removal_action(name) for name in names])

    def _removal_action(self, name: str) -> Action:
        directory = TextDirectory(self._text_path(name))
        return Action("remove files", directory.path, {"exists": True}, None, finish=directory.remove)

    def _texts_of(self, filesystem: FilesystemSpec) -> Mapping[str, bytes] | None:
        return self.files.files_of(self._source_of(filesystem))

    def _source_of(self, filesystem: FilesystemSpec) -> Any:
        return next(volume.source for volume in self.spec.volumes if volume.name == filesystem.name)

    def _text_path(self, name: str) -> str:
        return os.path.join(self.directory, DIRECTORY, name)

    def plan_export(self, filesystem: FilesystemSpec, *, is_dry_run: bool) -> RestartPlan:
        """Return the plan that gives the domain a filesystem."""
        plan = RestartPlan()
        spec = self._export_spec(filesystem)
        if spec.own_dirs and not os.path.isdir(str(spec.source)):  # an action before makes it
            plan.actions.append(Action("add virtiofs device", f"domain {self.domain!r}", None, {"source": spec.source}))
            device = VirtioFs(filesystem.name, str(spec.source))
            plan_plug(plan, self.hypervisor.domain(self.domain), device, None)
            return plan
        plan_present(plan, spec, self.hypervisor, is_dry_run=is_dry_run)
        return plan

    def _export_spec(self, filesystem: FilesystemSpec) -> ExportSpec:
        source = self._source_of(filesystem)
        is_claim = isinstance(source, (PersistentVolumeClaim, DataVolume))
        place = self._claim_options(filesystem, source) if is_claim else self._text_options(filesystem.name)
        spec = parse_options({**self._options(filesystem.name), **_tunables(filesystem), **place})
        return replace(
            spec,
            uid_map=filesystem.uid_map or None,
            gid_map=filesystem.gid_map or None,
            own_dirs=() if is_claim else (os.path.join(self.directory, DIRECTORY),),
        )

    def _text_options(self, name: str) -> dict[str, Any]:
        """Return the options for a directory with texts, which is read-only if this host supports that."""
        support = find_support(self.hypervisor, None)
        read_only = True
        try:
            check_read_only(support.version, support.daemon)
        except UnsupportedAction:
            read_only = False
        return {"source": self._text_path(name), "read_only": read_only}

    def _claim_options(self, filesystem: FilesystemSpec, source: PersistentVolumeClaim | DataVolume) -> dict[str, Any]:
        path = f"volumes.{filesystem.name}.{source_option(source)}"
        reference = source.name if isinstance(source, DataVolume) else source.claim_name
        claim = self.claims.find(path, reference)
        if not claim.is_directory:
            raise InvalidInput(path, reference, "an image of the type filesystem is expected, and this one is a disk")
        read_only = {"read_only": True} if isinstance(source, PersistentVolumeClaim) and source.read_only else {}
        if self.claims.are_given:
            return {"source": claim.path, "read_only": claim.read_only or filesystem.read_only, **read_only}
        return {"image": claim.name, **read_only}

    def _options(self, name: str) -> dict[str, Any]:
        defaults = {option: one.get("default") for option, one in VIRTIOFS_EXPORT_SPEC.argument_spec.items()}
        return {**defaults, "domain": self.domain, "uri": self.uri, "catalog": self.catalog, "mount_tag": name}

    def plan_removal(self, name: str) -> RestartPlan:
        """Return the plan that takes a filesystem from the domain."""
        plan = RestartPlan()
        spec = parse_options({**self._options(name), "state": "absent"})
        plan_absent(plan, spec, self.hypervisor)
        return plan


def _tunables(filesystem: FilesystemSpec) -> dict[str, Any]:
    names = ("cache", "queue", "xattr", "sandbox", "thread_pool", "allow_unmapped")
    found: dict[str, Any] = {name: getattr(filesystem, name) for name in names}
    return {**found, "read_only": True} if filesystem.read_only else found


def _text_action(directory: TextDirectory, texts: Mapping[str, bytes], passing: Collection[int]) -> Action | None:
    """Return the action that writes texts; ``None`` if the directory has them.

    :arg passing: the users of this host who can reach the texts.
    """
    old = directory.read()
    if old == texts:
        return None

    def write() -> None:
        _make_around(directory.path, passing)
        directory.write(texts)

    undo: Callable[[], object] = directory.remove if old is None else functools.partial(directory.write, old)
    changed = sorted(name for name in {**texts, **(old or {})} if texts.get(name) != (old or {}).get(name))
    before = None if old is None else {"files": sorted(old)}
    return Action("write files", directory.path, before, {"files": sorted(texts), "changed": changed}, write, undo)


def _make_around(path: str, passing: Collection[int]) -> None:
    """Create the directory around directories with texts."""
    around = os.path.dirname(path)
    with os_errors(f"make the directory {around}"):
        make_passable(os.path.dirname(around))
        with contextlib.suppress(FileExistsError):
            os.mkdir(around, 0o700)
        let_only_pass(around, passing)


__all__ = ["DIRECTORY", "DomainFilesystems"]
