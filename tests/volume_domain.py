# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Domains whose volumes are declared, for the tests in tests/integration. The service runs on the hosts."""

from __future__ import annotations

import json
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from running_disks import LIBRARY

#: The directory with the files of volumes, and the cache of container disks, of the tests.
DIRECTORY, CACHE = "/var/lib/libvirt/granary-test/volumes", "/var/lib/libvirt/granary-test/cache"
CATALOG = "/srv/volumes/catalog.sqlite"
#: Images as image_info returns them. The first is persistent, the second isn't.
CLAIMS = [
    {"id": 7, "name": "data", "path": "/srv/volumes/data", "format": "raw", "persistent": True, "read_only": False},
    {"id": 8, "name": "base", "path": "/srv/volumes/base", "format": "qcow2", "persistent": False, "read_only": False},
]
VIRTIO = {"disk": {"bus": "virtio"}}

#: A program that runs the service with the options on stdin, like the module does.
PROGRAM = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import VmstoreError
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.options import DOMAIN_VOLUMES_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.volumes import DomainVolumesService
given = json.load(sys.stdin)
check = given.pop("check")
options = {name: one.get("default") for name, one in DOMAIN_VOLUMES_SPEC.argument_spec.items()}
try:
    service = DomainVolumesService({**options, **given})
    plan = service.dry_run() if check else service.converge()
    found = {**plan.result, "changed": plan.changed, "warnings": plan.warnings, "diff": plan.diff(),
             "actions": [action.name for action in plan.actions]}
except VmstoreError as error:
    problems = [[one.rule, one.path] for one in getattr(error, "problems", ())]
    found = {"error": type(error).__name__, "says": str(error), "problems": problems}
print(json.dumps(found))
"""

#: A program that reads domains with the options on stdin, like the module domain_volumes_info does.
INFO_PROGRAM = """
import json, sys
from ansible_collections.granary.vmstore.plugins.module_utils._service.volume.info import (
    DOMAIN_VOLUMES_INFO_SPEC, domain_volumes_info)
options = {name: one.get("default") for name, one in DOMAIN_VOLUMES_INFO_SPEC.argument_spec.items()}
print(json.dumps(domain_volumes_info({**options, **json.load(sys.stdin)})))
"""


@dataclass(frozen=True)
class VolumeDomain:
    """A domain on a host of the lab."""

    host: str
    name: str
    execute: Callable[..., str]

    def shell(self, script: str, *arguments: str) -> str:
        return self.execute(self.host, "sh", "-ec", script, *arguments)

    def virsh(self, action: str, *arguments: str) -> str:
        return self.execute(self.host, "virsh", action, self.name, *arguments)

    def declare(self, *, check: bool = False, **options: Any) -> dict[str, Any]:
        """Run the service, and return its result or its error."""
        given = {"domain": self.name, "directory": DIRECTORY, "cache": CACHE, "catalog": CATALOG, "check": check}
        command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", PROGRAM]
        return dict(json.loads(self.execute(self.host, *command, stdin=json.dumps({**given, **options}), deadline=120)))

    def read_back(self, **options: Any) -> dict[str, Any]:
        """Return the declaration of the domain, as ``domain_volumes_info`` has it. Nothing is changed."""
        given = {"domain": self.name, "directory": DIRECTORY, "cache": CACHE, "catalog": CATALOG}
        command = ["env", f"PYTHONPATH={LIBRARY}", "python3", "-c", INFO_PROGRAM]
        before = self.state()
        output = self.execute(self.host, *command, stdin=json.dumps({**given, **options}), deadline=120)
        assert self.state() == before
        return dict(json.loads(output)["domains"][0])

    def converge(self, **options: Any) -> dict[str, Any]:
        """Declare in check mode, declare, declare again, and in check mode again. Return the result of the change.

        Check mode changes nothing and predicts the actions, and the second run finds nothing to do.
        """
        before = self.state()
        predicted = self.declare(check=True, **options)
        assert self.state() == before, predicted
        done = self.declare(**options)
        assert "error" not in done, done
        assert predicted["actions"] == done["actions"], (predicted["actions"], done["actions"])
        # The device of a directory with texts isn't known in detail before the directory exists.
        assert predicted["diff"] == done["diff"] or "write files" in done["actions"]
        again = [self.declare(**options), self.declare(check=True, **options)]
        assert [(one.get("actions"), one.get("changed")) for one in again] == [([], False)] * 2, again
        return done

    def state(self) -> tuple[str, str]:
        """Return the definition, and the files of the volumes with their times of change."""
        return self.definition(), self.shell(
            f"find {DIRECTORY} -type f -printf '%p %s %T@ %m %u\\n' 2>/dev/null | sort"
        )

    def definition(self) -> str:
        return self.virsh("dumpxml", "--inactive", "--security-info")

    def disk(self, name: str, *, running: bool = False) -> ET.Element:
        """Return the element of a disk."""
        root = ET.fromstring(self.virsh("dumpxml") if running else self.definition())
        found = [one for one in root.findall("devices/disk") if one.find(f"alias[@name='ua-{name}']") is not None]
        assert len(found) == 1, (name, self.definition())
        return found[0]

    def path(self, name: str) -> str:
        """Return the path of the data of a disk."""
        source = self.disk(name).find("source")
        assert source is not None
        return source.get("file") or source.get("dev") or ""

    def info(self, path: str) -> dict[str, Any]:
        """Return what qemu-img finds out about an image."""
        return dict(json.loads(self.execute(self.host, "qemu-img", "info", "-U", "--output=json", path)))

    def files_of(self, path: str) -> dict[str, str]:
        """Return the files of a small medium, as xorriso finds them."""
        script = (
            'rm -rf /tmp/medium; xorriso -osirrox on -indev "$0" -extract / /tmp/medium 2>/dev/null; '
            "cd /tmp/medium; find . -type f -printf '%P\\n'"
        )
        names = self.shell(script, path).split()
        return {name: self.shell(f"cat /tmp/medium/{shlex.quote(name)}") for name in sorted(names)}
