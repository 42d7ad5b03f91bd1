# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The role domain_volumes, with the catalog on another host. molecule/kubevirt has every kind of volume."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from documentation import block
from lab import Lab

Execute = Callable[..., str]

#: The directory of the test on both hosts.
DIRECTORY = "/var/lib/libvirt/granary-role"
CATALOG = f"{DIRECTORY}/vmstore/catalog.sqlite"
TOKEN = "correct-horse-battery"
#: A manifest of the domain web1. It has one disk of the README.
MANIFEST: dict[str, Any] = {
    "kind": "VirtualMachineInstance",
    "metadata": {"name": "web1"},
    "spec": {
        "domain": {"devices": {"disks": [{"name": "data", "disk": {"bus": "virtio"}, "serial": "DATA"}]}},
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "web1-data"}}],
    },
}


@pytest.fixture
def apply(site: Lab, domain: Callable[..., str], execute: Execute, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Run the play of the README with variables of the hypervisor ``old``, and return the output of Ansible. The
    front-end is hv1.
    """
    for name in ("web1", "web2"):
        domain("old", name)
    text = block("roles/domain_volumes/README.md", "granary.vmstore.domain_volumes").text

    def run(*arguments: str, is_documented: bool = True, **variables: Any) -> str:
        [play] = yaml.safe_load(text)
        if not is_documented:
            del play["roles"][0]["domain_volumes_domains"]
        (tmp_path / "play.yml").write_text(json.dumps([{**play, "gather_subset": ["min"]}]))
        own = {"domain_volumes_directory": f"{DIRECTORY}/volumes", "frontend_catalog": CATALOG, **variables}
        groups = {"vmstore_frontend": {"hosts": {"hv1": None}}, "vmstore_hypervisors": {"hosts": {"old": None}}}
        (tmp_path / "site.yml").write_text(json.dumps({"all": {"vars": own, "children": groups}}))
        (tmp_path / "web1.yaml").write_text(yaml.safe_dump_all([MANIFEST]))
        command = [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "site.yml"]
        done = ansible_process.run([*command, "-i", site.inventory, *arguments, tmp_path / "play.yml"])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    for host in ("hv1", "old"):
        execute(host, "mkdir", "-p", f"{DIRECTORY}/vmstore", f"{DIRECTORY}/datastores")
    yield run
    for host in ("hv1", "old"):
        execute(host, "rm", "-rf", DIRECTORY)


def changes(output: str) -> int:
    """Return the number of changes on all hosts."""
    return sum(map(int, re.findall(r"^\S+ +: .*changed=(\d+)", output, re.MULTILINE)))


def test_claims_are_images_of_another_host(
    apply: Callable[..., str], module: Callable[..., dict[str, Any]], execute: Execute
) -> None:
    told = changes(apply("--check"))  # there is no catalog yet
    assert told >= 1
    common = {"catalog": CATALOG, "datastore_location": f"{DIRECTORY}/datastores"}
    module("hv1", "datastore", name="disks", ds_driver="fs", tm_driver="shared", **common)
    image = {"name": "web1-data", "datastore": "disks", "type": "datablock", "size": "8M", "persistent": True}
    path = module("hv1", "image", catalog=CATALOG, **image)["image"]["path"]
    execute("old", "sh", "-euc", 'mkdir -p "${0%/*}"; truncate -s 8M "$0"', path)

    assert changes(apply()) == told
    assert path in execute("old", "virsh", "domblklist", "web1")
    assert changes(apply()) == changes(apply("--check")) == 0
    # The variables of the guide replace the disk and the empty disk of the README. The secret is in no output.
    declared = yaml.safe_load(block("docs/kubevirt.md", "In the inventory of a site").text)
    options = {"is_documented": False, "web2_token": TOKEN, "domain_volumes_cache_max_size": "10G"}
    output = apply("-vvv", "--diff", **options, **declared)
    assert changes(output) == 1
    assert TOKEN not in output
    disks = execute("old", "virsh", "domblklist", "web1") + execute("old", "virsh", "domblklist", "web2")
    assert path in disks and "token.iso" in disks and "scratch" not in disks
    assert TOKEN in execute("old", "grep", "-a", TOKEN, *re.findall(r"\S+token\.iso", disks))
    assert changes(apply(**options, **declared)) == 0
    # Entries without volumes take the volumes away, and the image stays.
    gone = {"vmstore_domain_volumes": [{"domain": "web1"}, {"domain": "web2"}], "domain_volumes_purge": True}
    assert changes(apply(is_documented=False, **gone)) == 1
    assert execute("old", "find", f"{DIRECTORY}/volumes", "-type", "f") == ""
    assert execute("old", "stat", "--format=%s", path).strip() == str(8 << 20)
