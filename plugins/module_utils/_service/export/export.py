# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A directory of this host in a libvirt domain (spec: virtiofs-datastore): the definition, what runs, and the claim in
the catalog.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import shlex
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..._catalog.catalog import Catalog, read_catalog
from ..._catalog.images import IMAGES
from ..._core.arguments import ArgumentSpec
from ..._core.errors import (
    Conflict,
    DependencyMissing,
    InvalidInput,
    LibvirtFailed,
    LibvirtMissing,
    NotFound,
    StaleState,
    UnsupportedAction,
    from_os_error,
)
from ..._core.files import remove_durably, write_atomic
from ..._core.locks import locked
from ..._core.paths import absolute, check_allowed, real_path
from ..._core.plan import Action
from ..._core.records import asdict, dataclass, replace
from ..._driver.datastore.base import SAFE_DIRS, SYSTEM_DIRS
from ..._host.ids.idmap_check import host_id
from ..._host.mount.submounts import submount_warnings
from ..._host.share_risks import share_risks
from ..._host.shared_directory import HeldDirectory
from ..._host.virtiofsd.program import WRAPPER, Daemon, default_binary, find_daemon, last_words
from ..._image.nocloud_seed import Seed, SeedMount, read_seed, seed_bytes
from ..._libvirt import domain_xml
from ..._libvirt.connection import DEFAULT_URI, Domain, Hypervisor, check_local
from ..._libvirt.domain_xml import VirtioFs
from ..._model.idmap import ID_MAP_OPTION, read_id_maps
from ..._model.mount_names import check_mount_point, check_mount_tag
from ..._model.names import check_domain, check_host
from ..catalog import CATALOG_OPTIONS
from ..ids.domain_ids import DomainIds, check_foreign_ranges, free_ranges
from ..image.attachment import ImageAttachment, attachments, remove_attachment, resolve_attachment
from ..service import Service
from .claim import claim_action, release_action
from .daemon import has_died, report_daemon
from .domain_restart import RESTART_OPTIONS, RestartPlan, allowed_restart, check_timeout, finish
from .identity import (
    VERSION_OF_IDMAP,
    IdMaps,
    check_domain_range,
    check_read_only,
    daemon_user,
    decide_maps,
    map_obstacle,
    warning_of_owners,
)
from .info import describe
from .owner import OWNER_OPTIONS, DirectoryOwner
from .record import ExportRecord, forget_directories, resolve_source

#: Seconds that a guest gets to release a device.
UNPLUG_DEADLINE = 20

SAVED_STATE = (
    "the domain has a saved state, which its next start resumes with the old devices, unless 'virsh "
    "managedsave-remove' forgets it"
)

QUEUES = [2**power for power in range(11)]

#: One lock a host, because exports of different domains are compared with each other.
LOCK_DIRECTORY = "/run/granary-vmstore"

#: What an attachment has decided already.
DECIDED = ("mount_tag", "mount_point", "read_only", "uid_map", "gid_map")

VIRTIOFS_EXPORT_SPEC = (
    ArgumentSpec(
        {
            "domain": {"type": "str", "required": True},
            "image": {"type": "str"},
            "attachment": {"type": "dict"},
            "source": {"type": "str"},
            "mount_tag": {"type": "str"},
            "mount_point": {"type": "str"},
            "read_only": {"type": "bool"},
            "uid_map": ID_MAP_OPTION,
            "gid_map": ID_MAP_OPTION,
            "cache": {"type": "str", "choices": ["none", "auto", "always"], "default": "none"},
            "queue": {"type": "int"},
            "xattr": {"type": "bool"},
            "sandbox": {"type": "str", "choices": ["namespace", "chroot"]},
            "thread_pool": {"type": "int"},
            "binary": {"type": "str"},
            "service_user": {"type": "str"},
            "subid": {"type": "str", "choices": ["shared", "per_domain"], "default": "shared"},
            "allow_unmapped": {"type": "bool", "default": False},
            **OWNER_OPTIONS,
            "seed": {"type": "str"},
            "uri": {"type": "str", "default": DEFAULT_URI},
            "host": {"type": "str"},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        mutually_exclusive=[["image", "attachment", "source"], *(["attachment", name] for name in DECIDED)],
        required_one_of=[["image", "attachment", "source", "mount_tag"]],
    )
    .merge(CATALOG_OPTIONS)
    .merge(ArgumentSpec(RESTART_OPTIONS))
)


@dataclass(frozen=True)
class Export:
    """What is to be exported, wherever the options took it from. ``option`` names that for messages."""

    option: str
    source: str
    mount_tag: str
    mount_point: str | None
    read_only: bool
    uid_map: IdMaps | None
    gid_map: IdMaps | None
    attachment: ImageAttachment | None = None


class VirtiofsExportService(Service):
    """Plans one virtiofs device of one domain."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.present: bool = options["state"] == "present"
        check_domain("domain", options["domain"])
        check_local(options["uri"])
        self.host = check_host("host", options["host"] or os.uname().nodename)
        self.catalog_path = absolute("catalog", options["catalog"])
        self.seed = None if options["seed"] is None else absolute("seed", options["seed"])
        self.tag = None if options["mount_tag"] is None else check_mount_tag("mount_tag", options["mount_tag"])
        self.mount_point = (
            None if options["mount_point"] is None else check_mount_point("mount_point", options["mount_point"])
        )
        self.maps = {name: read_id_maps(name, options[name]) for name in ("uid_map", "gid_map")}
        # QEMU takes no other queue, and says so only when the domain starts.
        if options["queue"] is not None and options["queue"] not in QUEUES:
            raise InvalidInput("queue", options["queue"], "a power of 2 from 1 to 1024 is expected")
        if options["thread_pool"] is not None and options["thread_pool"] < 0:
            raise InvalidInput("thread_pool", options["thread_pool"], "a number of threads from 0 on is expected")
        check_timeout(options)
        self.owner = DirectoryOwner(options)
        self.attachment = None if options["attachment"] is None else ImageAttachment.from_dict(options["attachment"])
        if self.present:
            self._check_present()
        self._hypervisor: Hypervisor | None = None
        self._directory: HeldDirectory | None = None
        self._ids: DomainIds | None = None

    def _check_present(self) -> None:
        if all(self.options[name] is None for name in ("image", "attachment", "source")):
            raise InvalidInput("state", "present", "with it one of image, attachment and source is expected")
        if self.options["source"] is not None and self.tag is None:
            raise InvalidInput("mount_tag", None, "a source that is no image needs a tag")
        if self.options["source"] is not None and self.seed is not None and self.mount_point is None:
            raise InvalidInput("mount_point", None, "a seed for a source that is no image needs a mount point")

    @property
    def hypervisor(self) -> Hypervisor:
        if self._hypervisor is None:
            self._hypervisor = Hypervisor(self.options["uri"])
        return self._hypervisor

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        try:
            os.makedirs(LOCK_DIRECTORY, mode=0o700, exist_ok=True)
        except OSError as error:
            raise from_os_error(error, f"make the directory {LOCK_DIRECTORY}") from error
        with locked(os.path.join(LOCK_DIRECTORY, "libvirt.lock")):
            yield

    def plan(self) -> RestartPlan:
        plan = RestartPlan({"restart_required": False, "restart_reasons": []})
        try:
            plan.restart = allowed_restart(self.hypervisor.find_domain(self.options["domain"]), self.options)
        except LibvirtMissing as error:
            if self.present or not self.foretelling:
                raise
            self.lack(plan, error, is_planned=True)  # to remove nothing, because without libvirt there are no domains
            plan.result.update(self.unknown().result)
            return plan
        if self.present:
            self._plan_present(plan)
        else:
            self._plan_absent(plan)
        plan.add_restart()
        return plan

    def converge(self) -> RestartPlan:
        with self.exclusive():
            plan = self.plan()
            plan.run()
        finish(self, plan)
        return plan

    def unknown(self) -> RestartPlan:
        plan = RestartPlan(
            {"restart_required": False, "restart_reasons": [], "domain": self.options["domain"], "device": None}
        )
        if self.present:
            plan.result["device"] = self._foretold_device()
        return plan

    def _foretold_device(self) -> dict[str, object]:
        """Return what can be told of the device without libvirt, and where the image isn't in the catalog yet."""
        export = None
        new: dict[str, object] = {}
        if self.options["source"] is not None:
            new = {
                "image": None,
                "source": absolute("source", self.options["source"]),
                "mount_tag": self.tag,
                "mount_point": self.mount_point,
            }
        elif self.attachment is not None:
            export = _export("attachment", self.attachment)
        else:
            with read_catalog(self.catalog_path, missing_ok=True) as view:
                if IMAGES.find(view, self.options["image"]) is not None:
                    export = _export("image", self._resolve_image(self.options["domain"], view))
                else:
                    number = view.next_id("image")
                    new = {"image": self.options["image"], "source": None}
                    new.update(
                        mount_tag=self.tag or f"one-{number}", mount_point=self.mount_point or f"/mnt/one-fs-{number}"
                    )
        if export is not None:
            new = {name: getattr(export, name) for name in ("source", "mount_tag", "mount_point", "read_only")}
            new["image"] = export.attachment and export.attachment.image
        return {"read_only": bool(self.options["read_only"]), **new}

    # Present

    def _plan_present(self, plan: RestartPlan) -> None:
        domain = self.hypervisor.domain(self.options["domain"])
        if not domain.is_persistent:
            raise UnsupportedAction(
                f"The domain {domain.name!r} is transient: it has no definition that an export could be added to."
            )
        others = [other for other in self.hypervisor.domains() if other.uuid != domain.uuid]
        export, claim = self._resolve(plan, domain, {domain.name, *(other.name for other in others)})
        self._directory = HeldDirectory(export.option, export.source)
        record = ExportRecord(export.option, export.source)
        foreign = [(other.name, device) for other in others for device in _devices_of(other)]
        record.check(
            any(
                os.path.normpath(device.source) == export.source
                for device in [*_devices_of(domain), *(one for _name, one in foreign)]
            )
        )
        plan.warnings += share_risks(record.found, read_only=export.read_only)
        wanted = self._device(plan, export, domain, foreign)
        old = domain.persistent_xml()
        current = self._check_domain(export, domain, domain_xml.parse(old))
        self._check_others(export, others)
        plan.actions += claim
        wanted = wanted.completed(current)
        if wanted.uid_map and wanted.sandbox == "chroot":
            raise InvalidInput("sandbox", "chroot", "ids are mapped in the sandbox 'namespace' only, which is expected")
        definition = self._definition_action(domain, old, wanted)
        recorded = record.recorded_with(definition) if wanted.binary == WRAPPER else [definition] if definition else []
        plan.actions += recorded if self._ids is None else self._ids.granted_with(recorded[0] if recorded else None)
        if self._ids is None:
            plan.afterwards.append(functools.partial(self._free_ids, domain.name, domain))
        warning = warning_of_owners(daemon_user(self.options["service_user"]), wanted)
        if warning is not None:
            plan.warnings.append(warning)
        self._plan_attach(plan, domain, wanted)
        if self.seed is not None and export.mount_point is not None:
            mount = SeedMount(export.mount_tag, export.mount_point, export.read_only)
            self._plan_seed(
                plan, domain, self.seed, lambda mounts: [*(one for one in mounts if one.tag != mount.tag), mount]
            )
        plan.result.update(domain=domain.name, mapped=bool(wanted.uid_map), device=_described(export, wanted))

    def _resolve(self, plan: RestartPlan, domain: Domain, defined: set[str]) -> tuple[Export, list[Action]]:
        """What to export, and the action that claims it in the catalog."""
        if self.options["source"] is not None:
            source = absolute("source", resolve_source(absolute("source", self.options["source"])))
            check_allowed("source", source, safe=SAFE_DIRS, restricted=SYSTEM_DIRS)
            return Export(
                "source",
                source,
                str(self.tag),
                self.mount_point,
                bool(self.options["read_only"]),
                self.maps["uid_map"],
                self.maps["gid_map"],
            ), []
        if self.attachment is not None:
            if self.attachment.domain != domain.name:
                raise InvalidInput(
                    "attachment.domain",
                    self.attachment.domain,
                    f"the attachment to the domain {domain.name!r} is expected",
                )
            # Deeper directories may be allowed by the datastore's SAFE_DIRS, which the front-end has compared; these
            # can't.
            check_allowed(
                "attachment.source", self.attachment.source, safe=[self.attachment.source], restricted=SYSTEM_DIRS
            )
            return _export("attachment", self.attachment), []
        with read_catalog(self.catalog_path, missing_ok=False) as view:  # a copy in memory
            before = [one for one in self._claims(view) if one.domain == domain.name]
            # Nobody can release the claim of a domain that this host no longer knows, but this host.
            stale = [one for one in self._claims(view) if one.domain not in defined]
            for one in stale:
                remove_attachment(view, one.image_id, one.host, one.domain)
                plan.warnings.append(
                    f"The domain {one.domain!r}, which this host no longer has, had claimed the image {one.image!r}; "
                    "that claim is released."
                )
            found = self._resolve_image(domain.name, view)
        if before == [found] and not stale:
            return _export("image", found), []
        return _export("image", found), [
            claim_action(
                self.catalog_path, [*before, *stale], found, functools.partial(self._resolve_image, domain.name)
            )
        ]

    def _resolve_image(self, domain: str, catalog: Catalog) -> ImageAttachment:
        overrides = {
            "mount_tag": self.tag,
            "mount_point": self.mount_point,
            "read_only": self.options["read_only"],
            **self.maps,
        }
        return resolve_attachment(catalog, self.options["image"], self.host, domain, **overrides)

    def _claims(self, view: Catalog) -> list[ImageAttachment]:
        image = IMAGES.find(view, self.options["image"])
        return [] if image is None else attachments(view, host=self.host, image_id=image.id)

    def _device(
        self, plan: RestartPlan, export: Export, domain: Domain, foreign: list[tuple[str, VirtioFs]]
    ) -> VirtioFs:
        """The device for this host's libvirt and virtiofsd.

        :arg foreign: the devices of other domains, each with its domain's name.
        """
        binary = self.options["binary"] or default_binary()
        daemon = find_daemon(binary)
        version = self.hypervisor.version
        if export.read_only:
            check_read_only(version, daemon)
        obstacle = map_obstacle(
            version, daemon, runs_as_root=os.geteuid() == 0 or not self.options["uri"].startswith("qemu:///session")
        )
        self._check_wrapper(obstacle, version, daemon)
        user = daemon_user(self.options["service_user"])
        if self.options["subid"] == "per_domain":
            check_domain_range(export.uid_map, export.gid_map, user=user, obstacle=obstacle)
            used = [one for _name, device in foreign for one in (*device.uid_map, *device.gid_map)]
            self._ids = DomainIds(domain.uuid, domain.name, user, used)
            uid_map = gid_map = (self._ids.map,)
        else:
            uid_map, gid_map = decide_maps(
                export.uid_map,
                export.gid_map,
                user=user,
                obstacle=obstacle,
                allow_unmapped=self.options["allow_unmapped"],
            )
            check_foreign_ranges(domain.uuid, [*uid_map, *gid_map])
        owning = self._directory and self.owner.action(self._directory, uid_map, gid_map)
        plan.actions += [owning] if owning else []
        if not uid_map:
            plan.warnings.append(
                f"{export.source} is exported without an id map, so the guest's root is root in it: {obstacle}."
            )
        else:
            if binary == WRAPPER:
                self._check_way(export, user, uid_map, gid_map)
            self._warn_of_obstacle(plan, export, uid_map, gid_map)
            self._warn_of_other_ids(plan, export, uid_map, foreign)
        return VirtioFs(
            tag=export.mount_tag,
            source=export.source,
            read_only=export.read_only,
            uid_map=uid_map,
            gid_map=gid_map,
            binary=binary,
            cache=None if self.options["cache"] == "auto" else self.options["cache"],
            **{name: self.options[name] for name in ("queue", "xattr", "sandbox", "thread_pool")},
        )

    def _check_wrapper(self, obstacle: str | None, version: tuple[int, int, int], daemon: Daemon) -> None:
        """
        :raises DependencyMissing: in check mode, a wrapper is all that this host needs to map ids, and a task before
            this one may install it.
        """
        if (
            self.foretelling
            and obstacle is not None
            and not self.options["allow_unmapped"]
            and version >= VERSION_OF_IDMAP
            and daemon.can_map
        ):
            raise DependencyMissing(f"The guest's ids can't be mapped on this host yet, because {obstacle}.")

    def _check_way(self, export: Export, user: str, uid_map: IdMaps, gid_map: IdMaps) -> None:
        """
        :raises Conflict: virtiofsd wouldn't find the directory, so that the domain wouldn't start.
        """
        account = pwd.getpwnam(user)
        closed = self._directory and self._directory.closed_way(account.pw_uid, account.pw_gid, uid_map, gid_map)
        if closed:
            directory, owner = shlex.quote(closed[0]), closed[1]
            root = host_id(uid_map, 0)
            raise Conflict(
                f"{export.option}: with {export.source!r} the domain wouldn't start, because {owner}, and virtiofsd "
                f"has to pass it as {user!r} and as the "
                f"guest's root, which is {root} on this host: 'chmod o+x {directory}' lets everybody pass; where root "
                "owns it, "
                f"'setfacl -m u:{user}:x,u:{root}:x {directory}' just these two."
            )

    def _warn_of_obstacle(self, plan: RestartPlan, export: Export, uid_map: IdMaps, gid_map: IdMaps) -> None:
        """Owners and modes can change at any time, so what the guest's root can't use now is no error."""
        root = (host_id(uid_map, 0), host_id(gid_map, 0))
        if self._directory is None or None in root:
            return
        obstacle = self._directory.obstacle(uid_map, gid_map, write=not export.read_only)
        if obstacle is not None:
            use = "read" if export.read_only else "write to"
            plan.warnings.append(
                f"The guest's root is {root[0]}:{root[1]} on this host and can't {use} {export.source!r}, because "
                f"{obstacle}."
            )

    @staticmethod
    def _warn_of_other_ids(
        plan: RestartPlan, export: Export, uid_map: IdMaps, foreign: list[tuple[str, VirtioFs]]
    ) -> None:
        """Two guests with different maps see each other's files as those of nobody."""
        for name, device in foreign:
            if os.path.normpath(device.source) == export.source and device.uid_map != uid_map:
                plan.warn_once(
                    f"The domain {name!r} shares {export.source!r} with other ids: in each guest the other's files "
                    "belong to nobody. "
                    "Give both the same ids (subid: shared, or the same uid_map and gid_map) where they have to change "
                    "each other's files."
                )

    def _check_domain(self, export: Export, domain: Domain, root: ET.Element) -> VirtioFs | None:
        """The export's device as the definition has it.

        :raises Conflict: the directory or the tag is in the domain already, each with another one.
        """
        found = None
        for _element, other in domain_xml.filesystems(root):
            if other.tag == export.mount_tag and os.path.normpath(other.source) == export.source:
                found = other
            elif os.path.normpath(other.source) == export.source:
                raise Conflict(
                    f"The domain {domain.name!r} exports {_what(export)} already, with the mount tag {other.tag!r}, "
                    "and can have it only once; "
                    f"remove that export (state: absent) to have it as {export.mount_tag!r}."
                )
        if found is None and export.mount_tag in domain_xml.tags(root):
            raise Conflict(
                f"mount_tag: {export.mount_tag!r} belongs to {domain_xml.tags(root)[export.mount_tag]!r} in the domain "
                f"{domain.name!r}."
            )
        return found

    @staticmethod
    def _check_others(export: Export, others: list[Domain]) -> None:
        """Two images may be one directory, one to write and one to read; two writers are refused, whatever the catalog
        says.

        :raises Conflict: a domain of this host can write to the image's directory too.
        """
        if export.attachment is None or export.read_only:
            return
        for other in others:
            for device in _devices_of(other):
                if os.path.normpath(device.source) == export.source and not device.read_only:
                    kind = "persistent" if export.attachment.persistent else "not read-only"
                    raise Conflict(
                        f"The image {export.attachment.image!r} is {kind} and the domain {other.name!r} on this host "
                        f"exports {export.source!r} "
                        f"writable with the mount tag {device.tag!r}; only one domain can write, so give one of them "
                        "an image that is read-only."
                    )

    def _definition_action(self, domain: Domain, old: str, wanted: VirtioFs) -> Action | None:
        before, after = domain_xml.parse(old), domain_xml.parse(old)
        same = [element for element, found in domain_xml.filesystems(after) if found.tag == wanted.tag]
        element = same[0] if same else domain_xml.new_filesystem()
        verb = "change" if same else "add"
        if not same:
            domain_xml.devices(after).append(element)
        ours = {element}
        domain_xml.write_filesystem(element, wanted)
        domain_xml.share_memory(after)
        if self.seed is not None and domain_xml.cdrom_of(after, self.seed) is None:
            ours.add(domain_xml.add_cdrom(after, self.seed))
        difference = domain_xml.first_difference(before, after)
        return (
            None
            if difference is None
            else self._define_action(f"{verb} virtiofs device", domain, old, before, after, frozenset(ours))
        )

    def _define_action(
        self, name: str, domain: Domain, old: str, before: ET.Element, after: ET.Element, ours: frozenset[ET.Element]
    ) -> Action:
        return Action(
            name,
            f"domain {domain.name!r}",
            *_shown(before, after),
            record=functools.partial(self._define, domain, old, after, ours),
            undo=functools.partial(domain.restore, old),
        )

    def _define(self, domain: Domain, old: str, wanted: ET.Element, ours: frozenset[ET.Element]) -> None:
        """Define the domain anew, and see that the definition is the old one with our change and nothing else."""
        if self._directory is not None:
            self._directory.check_same()
        if domain.persistent_xml() != old:
            raise StaleState(
                f"The definition of the domain {domain.name!r} was changed by another program in the meantime; run the "
                "module again."
            )
        domain.define(domain_xml.to_text(wanted))
        difference = domain_xml.first_difference(wanted, domain_xml.parse(domain.persistent_xml()), ours)
        if difference is not None:
            domain.restore(old)
            raise LibvirtFailed(
                f"libvirt did not keep {difference} of the definition of {domain.name!r} as it was written; the old "
                "definition is back."
            )

    def _plan_attach(self, plan: RestartPlan, domain: Domain, wanted: VirtioFs) -> None:
        text = domain.running_xml()
        if text is None:
            saved = domain.saved_xml()
            old = None if saved is None else _find_device(domain_xml.parse(saved), wanted)
            if saved is not None and (old is None or wanted.differences(old[1])):
                plan.restart_for(SAVED_STATE)
            return
        running = domain_xml.parse(text)
        live = [found for _element, found in domain_xml.filesystems(running) if found.tag == wanted.tag]
        if self.seed is not None and domain_xml.cdrom_of(running, self.seed) is None:
            plan.restart_for("the running domain has no drive with the seed")
        if live:
            plan.warnings.extend(submount_warnings(domain.name, wanted.source))
            report_daemon(plan, domain.name, running, live[0])
            differences = wanted.differences(live[0])
            if differences:
                plan.restart_for(f"the running domain has the device with another {', '.join(differences)}")
        elif any(
            os.path.normpath(found.source) == wanted.source for _element, found in domain_xml.filesystems(running)
        ):
            plan.restart_for("the running domain still has the directory with another mount tag")
        elif not domain_xml.memory_is_shared(running):
            plan.restart_for("the memory of the running domain is not shared, which virtiofs needs")
        elif not domain_xml.has_free_slot(running):
            plan.restart_for("the running domain has no free PCI slot to plug the device into")
        else:
            element = domain_xml.new_filesystem()
            domain_xml.write_filesystem(element, wanted)
            plan.actions.append(
                Action(
                    "plug virtiofs device",
                    f"running domain {domain.name!r}",
                    None,
                    domain_xml.pretty(element),
                    record=functools.partial(self._attach, domain, domain_xml.to_text(element), wanted),
                    undo=functools.partial(self._detach, domain, wanted),
                )
            )

    @staticmethod
    def _attach(domain: Domain, device: str, wanted: VirtioFs) -> None:
        start = time.time()
        try:
            domain.attach(device)
        except LibvirtFailed as error:
            words = last_words(domain.name, start)
            raise LibvirtFailed(f"{error} virtiofsd said last: {words}" if words else str(error)) from error
        live = _live_device(domain, wanted)
        if live is None or wanted.differences(live[1]):
            VirtiofsExportService._detach(domain, wanted)
            raise LibvirtFailed(
                f"libvirt did not plug the device {wanted.tag!r} into the running domain {domain.name!r} as it was "
                "asked to."
            )
        if has_died(domain, wanted):
            VirtiofsExportService._detach(domain, wanted)
            raise LibvirtFailed(
                f"The virtiofsd of the device {wanted.tag!r} ended at once in the domain {domain.name!r}. It said "
                f"last: {last_words(domain.name, start)}"
            )

    @staticmethod
    def _detach(domain: Domain, device: VirtioFs) -> bool:
        """Take ``device`` from the running domain; ``False`` when the guest doesn't release it in time."""
        live = _live_device(domain, device)
        if live is None:
            return True
        return domain.detach(
            domain_xml.to_text(live[0]),
            lambda text: _find_device(domain_xml.parse(text), device) is None,
            UNPLUG_DEADLINE,
        )

    # Seed

    def _plan_seed(
        self, plan: RestartPlan, domain: Domain, path: str, edited: Callable[[tuple[SeedMount, ...]], list[SeedMount]]
    ) -> None:
        """Make the seed at ``path`` hold the mounts that ``edited`` makes of its mounts now, in the order of their
        mount points.
        """
        old = read_seed(path)
        if old is not None and old.instance_id != domain.uuid:
            other = self.hypervisor.find_domain(old.instance_id)
            if other is not None:
                raise Conflict(
                    f"seed: {path!r} is the seed of the domain {other.name!r}; the domain {domain.name!r} needs one of "
                    "its own."
                )
        # A seed of a domain that was undefined says nothing about this one, which may have its name.
        mounts = old.mounts if old is not None and old.instance_id == domain.uuid else ()
        new = Seed(domain.uuid, tuple(sorted(edited(mounts), key=lambda mount: mount.mount_point)))
        if new == old:
            return
        plan.actions.append(
            Action(
                "write seed",
                path,
                None if old is None else {one.tag: asdict(one) for one in old.mounts},
                {one.tag: asdict(one) for one in new.mounts},
                record=functools.partial(write_atomic, path, seed_bytes(new.instance_id, new.mounts), mode=0o600),
                undo=functools.partial(remove_durably, path)
                if old is None
                else functools.partial(write_atomic, path, seed_bytes(old.instance_id, old.mounts)),
            )
        )

    # Absent

    def _plan_absent(self, plan: RestartPlan) -> None:
        domain = self.hypervisor.find_domain(self.options["domain"])
        name = self.options["domain"] if domain is None else domain.name
        plan.result.update(domain=name, mapped=False, device=None)
        matches, claims = self._unwanted(name)
        if domain is not None:
            tags = self._plan_undefine(plan, domain, matches) | self._plan_unplug(plan, domain, matches)
            if self.seed is not None and read_seed(self.seed) is not None:
                tags |= {one.mount_tag for one in claims}
                self._plan_seed(plan, domain, self.seed, lambda mounts: [one for one in mounts if one.tag not in tags])
        if claims and not plan.result["restart_required"]:
            plan.actions.append(self._release_action(plan, claims))
        plan.afterwards += [
            functools.partial(forget_directories, self._shared_directories),
            functools.partial(self._free_ids, name, domain),
        ]

    def _shared_directories(self) -> set[str]:
        return {os.path.normpath(device.source) for one in self.hypervisor.domains() for device in _devices_of(one)}

    def _free_ids(self, name: str, domain: Domain | None) -> None:
        """Free the ids of the domain alone unless a device has them, which may be one that the guest didn't release."""
        used = (
            []
            if domain is None
            else [one for device in _devices_of(domain) for one in (*device.uid_map, *device.gid_map)]
        )
        free_ranges(name, {one.uuid for one in self.hypervisor.domains()}, domain and domain.uuid, used)

    def _release_action(self, plan: RestartPlan, claims: list[ImageAttachment]) -> Action:
        """As long as the guest can write to it, no other domain may: the claim outlives a device that stays."""
        action = release_action(self.catalog_path, claims)

        def release() -> None:
            if plan.postponed:
                plan.postponed.append((released, plan.postponed[0][1]))
            else:
                action.record()

        released = replace(action, record=release)
        return released

    def _unwanted(self, domain: str) -> tuple[Callable[[VirtioFs], bool], list[ImageAttachment]]:
        """Which device to remove, and the claims of it that this host's catalog has; an image that isn't in the catalog
        has none.
        """
        tag = self.attachment.mount_tag if self.attachment else self.tag
        sources = {os.path.normpath(self.attachment.source)} if self.attachment else set()
        if self.options["source"] is not None:
            path = absolute("source", self.options["source"])
            sources |= {path, real_path(path)}
        claims: list[ImageAttachment] = []
        others: set[str] = set()
        if os.path.lexists(self.catalog_path):
            with read_catalog(self.catalog_path, missing_ok=False) as view:
                claims = attachments(view, host=self.host, domain=domain)
                image = None if self.options["image"] is None else IMAGES.find(view, self.options["image"])
                if image is not None:
                    sources.add(image.path)
                    others = {
                        one.mount_tag for one in claims if one.image_id != image.id
                    }  # which may have the same directory
        any_source = not sources and self.options["image"] is None

        def matches(device: VirtioFs) -> bool:
            return (
                (any_source or os.path.normpath(device.source) in sources)
                and tag in (None, device.tag)
                and device.tag not in others
            )

        return matches, [one for one in claims if matches(VirtioFs(one.mount_tag, one.source))]

    def _plan_undefine(self, plan: RestartPlan, domain: Domain, matches: Callable[[VirtioFs], bool]) -> set[str]:
        """Take the device out of the definition; the answer is its tag."""
        if not domain.is_persistent:
            return set()
        old = domain.persistent_xml()
        before, after = domain_xml.parse(old), domain_xml.parse(old)
        found = [(element, device) for element, device in domain_xml.filesystems(after) if matches(device)]
        for element, _device in found:
            domain_xml.devices(after).remove(element)
        if found:
            plan.actions.append(self._define_action("remove virtiofs device", domain, old, before, after, frozenset()))
        saved = domain.saved_xml()
        if saved is not None and any(
            matches(device) for _element, device in domain_xml.filesystems(domain_xml.parse(saved))
        ):
            plan.restart_for(SAVED_STATE)
        return {device.tag for _element, device in found}

    def _plan_unplug(self, plan: RestartPlan, domain: Domain, matches: Callable[[VirtioFs], bool]) -> set[str]:
        """Unplug the device from the running domain; the answer is its tag."""
        text = domain.running_xml()
        found = (
            [(element, device) for element, device in domain_xml.filesystems(domain_xml.parse(text)) if matches(device)]
            if text
            else []
        )
        for element, device in found:
            plan.actions.append(self._unplug_action(plan, domain, element, device))
        return {device.tag for _element, device in found}

    def _unplug_action(self, plan: RestartPlan, domain: Domain, element: ET.Element, device: VirtioFs) -> Action:
        def unplug() -> None:
            if not self._detach(domain, device):
                why = ", because its virtiofsd has died" if has_died(domain, device) else ""
                reason = f"the guest did not release the device {device.tag!r} within {UNPLUG_DEADLINE} seconds{why}"
                plan.postponed.append((action, reason))
                plan.restart_for(reason)

        action = Action(
            "unplug virtiofs device",
            f"running domain {domain.name!r}",
            domain_xml.pretty(element),
            None,
            record=unplug,
            undo=functools.partial(_replug, domain, device),
        )
        return action


def _export(option: str, found: ImageAttachment) -> Export:
    return Export(
        option, found.source, found.mount_tag, found.mount_point, found.read_only, found.uid_map, found.gid_map, found
    )


def _described(export: Export, device: VirtioFs) -> dict[str, object]:
    return {
        **describe(device),
        "image": export.attachment.image if export.attachment else None,
        "mount_point": export.mount_point,
    }


def _what(export: Export) -> str:
    return f"the image {export.attachment.image!r} ({export.source})" if export.attachment else repr(export.source)


def _shown(before: ET.Element, after: ET.Element) -> tuple[str | None, str | None]:
    """What differs in two definitions, for a person: memory backing, virtiofs devices and CD-ROM drives, nothing
    secret.
    """
    sides = []
    for root, other in ((before, after), (after, before)):
        counterpart = {domain_xml.to_text(element) for element in _edited(other)}
        sides.append(
            "".join(
                domain_xml.pretty(element)
                for element in _edited(root)
                if domain_xml.to_text(element) not in counterpart
            )
            or None
        )
    return sides[0], sides[1]


def _edited(root: ET.Element) -> list[ET.Element]:
    drives = [disk for disk in domain_xml.devices(root).findall("disk") if disk.get("device") == "cdrom"]
    return [*root.findall("memoryBacking"), *(element for element, _device in domain_xml.filesystems(root)), *drives]


def _devices_of(domain: Domain) -> list[VirtioFs]:
    """The devices in the definition of a domain and in what runs of it; none when it vanishes meanwhile."""
    try:
        texts = [domain.persistent_xml() if domain.is_persistent else None, domain.running_xml()]
    except NotFound:
        return []
    return [device for text in texts if text for _element, device in domain_xml.filesystems(domain_xml.parse(text))]


def _find_device(root: ET.Element, wanted: VirtioFs) -> tuple[ET.Element, VirtioFs] | None:
    return next(
        (
            found
            for found in domain_xml.filesystems(root)
            if (found[1].tag, found[1].source) == (wanted.tag, wanted.source)
        ),
        None,
    )


def _live_device(domain: Domain, wanted: VirtioFs) -> tuple[ET.Element, VirtioFs] | None:
    text = domain.running_xml()
    return None if text is None else _find_device(domain_xml.parse(text), wanted)


def _replug(domain: Domain, device: VirtioFs) -> None:
    """Undo an unplugging, if it happened."""
    if domain.is_running and _live_device(domain, device) is None:
        element = domain_xml.new_filesystem()
        domain_xml.write_filesystem(element, device)
        domain.attach(domain_xml.to_text(element))


__all__ = ["VIRTIOFS_EXPORT_SPEC", "VirtiofsExportService"]
