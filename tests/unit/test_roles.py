# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Variables of roles that are lists of a module's options: they have the module's names and types, and are
passed on.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]

#: Aliases of the module domain_volumes, which are options in a role, because the schema of roles lacks aliases.
KUBEVIRT_SPELLINGS = {
    "blockMultiQueue",
    "dataVolumeTemplates",
    "disableHotplug",
    "downwardMetrics",
    "ioThreads",
    "ioThreadsPolicy",
    "useVirtioTransitional",
}

#: Role, variable, module, options of the module that the user doesn't set there, additional options of the role, and
#: the files that pass all options on.
LISTS = [
    # The elements of the variable have names. The roles have the paths of the catalog and of the datastores.
    (
        "site",
        "vmstore_datastores",
        "datastore",
        {"id", "catalog", "datastore_location"},
        set(),
        ["playbooks/tasks/catalog.yml"],
    ),
    ("site", "vmstore_images", "image", {"id", "catalog", "images", "timeout"}, set(), []),
    # The catalog has the attachment, and the image has the source.
    (
        *("site", "vmstore_exports", "virtiofs_export"),
        {"attachment", "catalog", "source"},
        {"guest", "mount_options"},
        [],
    ),
    ("site", "vmstore_shared_mounts", "shared_mount", set(), set(), []),
    # The module's documentation doesn't repeat the options of a disk under `disks`.
    ("site", "vmstore_vms", "vm_disk", {"catalog", "disks", "vms"}, {"context", "disks"}, []),
    (
        *("site", "vmstore_vms.disks", "vm_disk"),
        {"catalog", "datastore", "disks", "domain", "exclusive", "host", "vm", "vms"},
        set(),
        [],
    ),
    ("site", "vmstore_vms.context", "vm_context", set(), set(), ["playbooks/tasks/vm_contexts.yml"]),
    ("shared_mount", "shared_mount_mounts", "shared_mount", set(), set(), ["roles/shared_mount/tasks/main.yml"]),
    ("hypervisor", "hypervisor_exports", "virtiofs_export", set(), set(), ["roles/hypervisor/tasks/exports.yml"]),
    # The options of the elements are those of the module for one domain, and the role has the others.
    (
        *("domain_volumes", "domain_volumes_domains", "domain_volumes"),
        {
            "ca_path",
            "cache",
            "catalog",
            "directory",
            "domains",
            "insecure",
            "purge",
            "restart",
            "restart_timeout",
            "uri",
        },
        KUBEVIRT_SPELLINGS,
        [],
    ),
    (
        "virtiofs_guest",
        "virtiofs_guest_mounts",
        "virtiofs_mount",
        set(),
        set(),
        ["roles/virtiofs_guest/tasks/main.yml"],
    ),
    # The owner and the permissions are those of the directory.
    (
        "nfs_server",
        "nfs_server_exports",
        "nfs_export",
        set(),
        {"owner", "group", "mode"},
        ["roles/nfs_server/tasks/main.yml"],
    ),
]
CASES = pytest.mark.parametrize(
    ("role", "variable", "module", "not_given", "own", "files"), LISTS, ids=[case[1] for case in LISTS]
)


def options_of_role(role: str, variable: str) -> dict[str, Any]:
    specification = yaml.safe_load((ROOT / f"roles/{role}/meta/argument_specs.yml").read_text())
    found = specification["argument_specs"]["main"]
    for name in variable.split("."):
        found = found["options"][name]
    return found["options"]


@functools.cache
def documentation() -> dict[str, Any]:
    """Return the documentation of the modules in LISTS, with its fragments."""
    names = sorted({f"granary.vmstore.{module}" for _role, _variable, module, *_others in LISTS})
    return json.loads(subprocess.run(["ansible-doc", "--json", *names], check=True, stdout=subprocess.PIPE).stdout)


def options_of_module(module: str) -> dict[str, Any]:
    return documentation()[f"granary.vmstore.{module}"]["doc"]["options"]


@CASES
def test_a_list_has_the_options_of_the_module(
    role: str, variable: str, module: str, not_given: set[str], own: set[str], files: list[str]
) -> None:
    assert options_of_role(role, variable).keys() - own == options_of_module(module).keys() - not_given


@CASES
def test_they_are_of_the_same_types(
    role: str, variable: str, module: str, not_given: set[str], own: set[str], files: list[str]
) -> None:
    def types(options: dict[str, Any], nested: str) -> dict[str, object]:
        return {
            name: (option.get("type", "str"), option.get("elements"), types(option.get(nested, {}), nested))
            for name, option in options.items()
            if name not in own | not_given
        }

    assert types(options_of_role(role, variable), "options") == types(options_of_module(module), "suboptions")


@CASES
def test_they_reach_the_module(
    role: str, variable: str, module: str, not_given: set[str], own: set[str], files: list[str]
) -> None:
    element = r"\b(?:item(?:\.item)?\.|vmstore_context\.(?:get\(')?)([a-z_]+)"
    passed = {name for file in files for name in re.findall(element, (ROOT / file).read_text())}
    assert not files or options_of_role(role, variable).keys() - passed == set()


def test_the_site_gives_the_role_each_export_as_it_is_but_for_what_the_claim_has_decided() -> None:
    site, catalog = ((ROOT / "playbooks" / name).read_text() for name in ("site.yml", "tasks/catalog.yml"))
    claim = yaml.safe_load(
        re.search(r"    - name: Attach images to domains\n(.*?)\n      loop:", catalog, re.DOTALL)[1]
    )
    decided = yaml.safe_load(re.search(r"vmstore_decided: (.*)", site)[1])
    assert set(decided) == claim["granary.vmstore.image_attachment"].keys() - {"host", "domain"} | {
        "guest",
        "mount_options",
        "state",
    }
