# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The playbook site: errors before it connects to a host, and how exports are created, wait for a restart, move and
disappear.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from documentation import block
from lab import Lab

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
EXAMPLE = ROOT / "examples" / "inventory"

Execute = Callable[..., str]


def ansible(*arguments: str | Path, fails: bool = False) -> str:
    """Run the playbook and return its output."""
    # All plays of a run share the facts of a host.
    done = ansible_process.run([PLAYBOOK, *arguments], environment={**os.environ, "ANSIBLE_GATHERING": "smart"})
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def changes(output: str) -> dict[str, int]:
    """Return the changes on each host."""
    return {host: int(number) for host, number in re.findall(r"^(\S+) +: .*changed=(\d+)", output, re.MULTILINE)}


def count_changes(output: str) -> int:
    return sum(changes(output).values())


# Checks without a host


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., str]:
    """Run the playbook with an invalid inventory; none of its hosts exists."""

    def run(*, frontends: tuple[str, ...] = ("f1",), arguments: tuple[str, ...] = (), **variables: Any) -> str:
        groups = {"vmstore_frontend": frontends, "vmstore_hypervisors": ("h1", "h2"), "vmstore_guests": ("g1",)}
        inventory = tmp_path / "inventory.yml"
        children = {name: {"hosts": dict.fromkeys(hosts)} for name, hosts in groups.items()}
        inventory.write_text(yaml.safe_dump({"all": {"vars": variables, "children": children}}))
        output = ansible("-i", inventory, *arguments, "granary.vmstore.site", fails=True)
        assert "Gathering Facts" not in output  # no connection to a host
        return output

    return run


EXPORT = {"host": "h1", "domain": "g1", "image": "data"}
VM = {"vm": "web", "host": "h1", "size": "1G"}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"vmstore_exports": [{**EXPORT, "mountpoint": "/srv"}]},
            "vmstore_exports.mountpoint. Supported parameters include: ",
        ),
        ({"vmstore_images": [{"name": "data", "owner": "x"}]}, "vmstore_images.owner. Supported parameters include: "),
        (
            {"vmstore_datastores": [{"name": "fs", "driver": "x"}]},
            "vmstore_datastores.driver. Supported parameters include: ",
        ),
        (
            {"vmstore_exports": [{"host": "h1", "domain": "g1"}]},
            "missing required arguments: image found in vmstore_exports",
        ),
        (
            {"vmstore_exports": [{**EXPORT, "state": "gone"}]},
            "value of state must be one of: present, absent, got: gone found in vmstore_exports",
        ),
        ({"vmstore_exports": [{**EXPORT, "uid_map": [{"target": "many"}]}]}, "'many'"),
        (
            {"vmstore_exports": [{**EXPORT, "host": "g1"}]},
            '"g1" is not accepted as the host of "g1": one of the group vmstore_hypervisors is expected',
        ),
        (
            {"vmstore_exports": [{**EXPORT, "guest": "h1"}]},
            '"h1" is not accepted as the guest of "g1": one of the group vmstore_guests is expected (g1).',
        ),
        (
            {"vmstore_exports": [EXPORT, {**EXPORT, "state": "absent"}]},
            'the image "data" is there more than once for the domain "g1" of the host h1',
        ),
        (
            {"vmstore_vms": [{**VM, "context": {"path": "/srv/web.iso", "keys": []}}]},
            "vmstore_vms.context.keys. Supported parameters include: ",
        ),
        (
            {"vmstore_vms": [VM, {"vm": "web", "state": "absent"}]},
            'the virtual machine "web" is there more than once, and once with all its disks is expected.',
        ),
        (
            {"vmstore_vms": [{"vm": "web", "state": "absent", "context": {"path": "/srv/web.iso"}}]},
            'the virtual machine "web" has a context and no host, and the host with its context image is expected.',
        ),
        (
            {"vmstore_vms": [{"vm": "web", "size": "1G"}]},
            '"f1" is not accepted as the host of "web": one of the group vmstore_hypervisors is expected (h1, h2).',
        ),
        (
            {"vmstore_vms": [VM]},
            'the service user can\'t manage the disks of virtual machines on the host "h1": '
            "hypervisor_service_user_uses_libvirt and hypervisor_qemu_user of this host are expected",
        ),
        (
            {"vmstore_domain_volumes": [{"domain": "web", "disk": []}]},
            "vmstore_domain_volumes.disk. Supported parameters include: ",
        ),
        (
            {"vmstore_domain_volumes": [{"domain": "web"}, {"domain": "web"}]},
            'the domain "web" of the host h1 is there more than once, and once with all its volumes is expected.',
        ),
        ({"frontends": ("f1", "f2")}, "The group vmstore_frontend has 2 hosts, and exactly one is expected"),
        ({"frontends": ()}, "The group vmstore_frontend has 0 hosts, and exactly one is expected"),
        ({"arguments": ("--limit", "h1")}, "The front-end f1 is left out by --limit"),
    ],
)
def test_an_inventory_with_a_mistake_is_refused(
    check: Callable[..., str], variables: dict[str, Any], message: str
) -> None:
    assert message in " ".join(check(**variables).split())


def test_the_example_inventory_is_a_site(tmp_path: Path) -> None:
    ansible("-i", EXAMPLE, "--syntax-check", "granary.vmstore.site")
    play = tmp_path / "play.yml"
    play.write_text(
        json.dumps([{"hosts": "vmstore_frontend", "gather_facts": False, "roles": ["granary.vmstore.site"]}])
    )
    assert "failed=0" in ansible("-i", EXAMPLE, play)


def test_a_playbook_without_datastores_is_accepted(tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    play.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": ["granary.vmstore.site"]}]))
    inventory = tmp_path / "inventory.yml"
    inventory.write_text(yaml.safe_dump({"vmstore_frontend": {"hosts": {"f1": None}}}))
    assert "failed=0" in ansible("-i", inventory, play)


# Runs with hosts. The first tests begin in check mode with an image, which other tests remove.

#: Domains of the tests, and the image for each. The image 5 moves from the first domain to the second.
IMAGES = {"hot": 1, "cold": 2, "forced": 3, "stubborn": 4, "unshared": 5}
KEPT = {
    "vmstore_datastores": [{"name": "site", "ds_driver": "virtiofs", "tm_driver": "virtiofs"}],
    "vmstore_images": [
        {"name": f"site_{number}", "datastore": "site", "path": f"/mnt/site/{number}", "persistent": True}
        for number in IMAGES.values()
    ],
}
#: Variables that remove the images and their datastore.
GONE = {
    "vmstore_datastores": [{"name": "site", "state": "absent"}],
    "vmstore_images": [{"name": image["name"], "state": "absent"} for image in KEPT["vmstore_images"]],
}


@pytest.fixture(scope="module")
def converge(site: Lab, tmp_path_factory: pytest.TempPathFactory, execute: Execute) -> Iterator[Callable[..., str]]:
    """Run the playbook on hv1, front-end and hypervisor in one, with the images, and remove them at the end. Further
    hypervisors have variables of their own.
    """
    inventory = tmp_path_factory.mktemp("site") / "site.yml"

    def run(guests: list[str], *arguments: str, others: Mapping[str, Any] | None = None, **variables: Any) -> str:
        groups = {"vmstore_frontend": ["hv1"], "vmstore_hypervisors": ["hv1"], "vmstore_guests": guests}
        children: dict[str, Any] = {name: {"hosts": dict.fromkeys(hosts)} for name, hosts in groups.items()}
        children["vmstore_hypervisors"]["hosts"].update(others or {})
        # One test of the access by ssh is enough, see test_the_service_user_manages_disks_on_another_host.
        declared = {**KEPT, "vmstore_cluster_ssh": False, **variables}
        inventory.write_text(yaml.safe_dump({"all": {"vars": declared, "children": children}}))
        command = block("README.md", "A whole site").text.split()
        assert command[:3] == ["ansible-playbook", "-i", "inventory"]
        return ansible("-i", site.inventory, "-i", inventory, *command[3:], *arguments)

    for number in IMAGES.values():
        execute("hv1", "install", "--directory", "--owner=100000", "--group=100000", f"/mnt/site/{number}")
    run([])
    yield run
    run([], **GONE)
    execute("hv1", "rm", "-rf", "/mnt/site", "/var/lib/one/vmstore", "/var/lib/one/datastores")


@pytest.fixture
def foretold(converge: Callable[..., str]) -> Callable[..., str]:
    """Run the playbook in check mode and then for real. The changes on each host must equal the planned ones."""

    def run(*arguments: Any, **variables: Any) -> str:
        told = converge(*arguments, "--check", **variables)
        done = converge(*arguments, **variables)
        assert changes(told) == changes(done), told + done
        return done

    return run


def export_to(domain: str, **options: Any) -> dict[str, Any]:
    return {"host": "hv1", "domain": domain, "image": f"site_{IMAGES[domain]}", **options}


def absent(exports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**export, "state": "absent"} for export in exports]


def test_exports_come_move_and_go(
    site: Lab,
    ordinary: str,
    converge: Callable[..., str],
    foretold: Callable[..., str],
    execute: Execute,
    domain: Callable[..., str],
) -> None:
    # The memory of these domains isn't shared, therefore exports can't be attached while they run.
    for name in ("unshared", "forced"):
        domain("hv1", name, start=True)
    # This domain has no system that could release a device.
    domain("hv1", "stubborn", shared=True, start=True)

    def list_mounts(guest: str) -> dict[str, str]:
        command = "findmnt --noheadings --types virtiofs --output TARGET,OPTIONS"
        return dict(line.split() for line in site.ssh(guest, command, check=False).splitlines())

    def has_image(number: int, *arguments: str) -> bool:
        return f"/mnt/site/{number}" in execute("hv1", "virsh", "dumpxml", *arguments)

    boot = site.ssh(ordinary, "cat", "/proc/sys/kernel/random/boot_id")
    mounted = export_to("hot", mount_point="/srv/old", mount_options=["noatime"])
    others = [
        export_to("cold", restart="when_needed", mount_point="/srv/site"),
        export_to("forced", restart="when_needed_force", restart_timeout=1),
        export_to("stubborn"),
    ]
    leaving = {**export_to("unshared"), "domain": "hot"}
    guests = ["hot", ordinary]
    said = foretold(guests, vmstore_exports=[mounted, *others, leaving])
    assert "Shut these domains down" not in said
    assert len(list_mounts("hot")) == 2 and "noatime" in list_mounts("hot")["/srv/old"]
    assert site.ssh(ordinary, "cat", "/proc/sys/kernel/random/boot_id") != boot
    assert list(list_mounts(ordinary)) == ["/srv/site"]
    assert has_image(3, "forced") and has_image(4, "stubborn") and has_image(5, "hot")

    mounted = {**mounted, "mount_point": "/srv/new"}
    foretold(guests, vmstore_exports=[mounted, *others, leaving])
    assert sorted(list_mounts("hot"))[1:] == ["/srv/new"]
    assert "/srv/old" not in site.ssh("hot", "cat", "/etc/fstab")

    late = export_to("unshared")
    restart_is_left = (
        "Shut these domains down and start them again, so that they see what was exported to them: unshared on hv1."
    )
    # Check mode doesn't predict what follows the removal of an export.
    said = converge(guests, vmstore_exports=[mounted, *others, late, *absent([leaving])])
    assert restart_is_left in " ".join(said.split())
    assert list(list_mounts("hot")) == ["/srv/new"]
    assert has_image(5, "--inactive", "unshared") and not has_image(5, "unshared") and not has_image(5, "hot")
    # Each run prints the notice until the restart is done.
    again = converge(guests, vmstore_exports=[mounted, *others, late])
    assert count_changes(again) == 0
    assert restart_is_left in " ".join(again.split())

    gone = absent([mounted, *others, late])
    said = " ".join(foretold(guests, vmstore_exports=gone).split())
    assert "The domain stubborn on hv1 has the image site_4 until the domain is shut down" in said
    assert list_mounts("hot") == list_mounts(ordinary) == {}
    for guest in guests:
        assert "/srv" not in site.ssh(guest, "cat", "/etc/fstab")
    for name, number in IMAGES.items():
        assert has_image(number, name) == (name == "stubborn")
        assert not has_image(number, "--inactive", name)
    execute("hv1", "virsh", "destroy", "stubborn")
    assert count_changes(converge(guests, vmstore_exports=gone)) == 1
    assert count_changes(converge(guests, vmstore_exports=gone)) == 0


#: Program that prints the owners of the disks of the VM 0.
OWNERS = "cd /var/lib/one/datastores/0/0 && stat --format='%n %U' disk.*"


@pytest.fixture
def plain_host(execute: Execute) -> Iterator[str]:
    """Return a second hypervisor, and restore its configuration and its service user after the test."""
    execute("old", "cp", "-a", "/etc/libvirt/qemu.conf", "/root/qemu.conf")
    yield "old"
    execute("old", "cp", "-a", "/root/qemu.conf", "/etc/libvirt/qemu.conf")
    execute("old", "sh", "-c", "gpasswd -d oneadmin libvirt; gpasswd -d oneadmin kvm; systemctl restart libvirtd")


def test_the_service_user_manages_disks_on_another_host(
    converge: Callable[..., str], plain_host: str, execute: Execute, domain: Callable[..., str]
) -> None:
    """The default is access between all hosts. test_cluster_ssh.py has several hosts."""
    domain(plain_host, "web")
    text = block("docs/vm-disks.md", "In the inventory of a site").text.replace("kvm1.example.com", plain_host)
    documented = yaml.safe_load(text)
    [image], [vm] = documented["vmstore_images"], documented["vmstore_vms"]
    execute("hv1", "sh", "-euc", 'mkdir -p "${0%/*}"; qemu-img create -q -f qcow2 "$0" 1M', image["path"])
    vm["disks"] += [{"size": "1M", "state": "absent"}, {"size": "8M"}]
    vm["context"]["variables"] = {"ROOT_PASSWORD": "unspeakable"}
    variables: dict[str, Any] = {
        "others": {plain_host: {name: documented[name] for name in documented if name.startswith("hypervisor_")}},
        "vmstore_cluster_ssh": True,
    }
    declared = {
        **variables,
        "vmstore_datastores": [*KEPT["vmstore_datastores"], *documented["vmstore_datastores"]],
        "vmstore_images": [*KEPT["vmstore_images"], image],
        "vmstore_vms": [vm],
    }

    told = converge([], "--check", **declared)
    assert "doesn't predict the disks of virtual machines, because these hosts" in " ".join(told.split())
    done = converge([], "-vv", **declared)
    # Check mode predicts neither the disks, nor the datastores and images, of which a removed disk may be the last use.
    assert count_changes(done) == count_changes(told) + 3
    assert "unspeakable" not in told + done
    volume = execute(plain_host, "blkid", "-o", "value", "-s", "LABEL", vm["context"]["path"])
    assert volume.strip() == "CONTEXT"
    execute(plain_host, "virsh", "start", "web")
    assert execute(plain_host, "sh", "-c", OWNERS).split() == ["disk.0", "oneadmin", "disk.2", "oneadmin"]
    assert "/0/0/disk.0" in execute(plain_host, "virsh", "domblklist", "web")
    # The service user reads the disks of the running domain.
    assert count_changes(converge([], **declared)) == 0

    execute(plain_host, "virsh", "destroy", "web")
    gone = {
        **variables,
        "vmstore_datastores": [*KEPT["vmstore_datastores"], {"name": "disks", "state": "absent"}],
        "vmstore_images": [*KEPT["vmstore_images"], {"name": image["name"], "state": "absent"}],
        "vmstore_vms": [{"vm": "web", "host": plain_host, "context": vm["context"], "state": "absent"}],
    }
    # The context and the disks. The image has its disk until then.
    assert count_changes(converge([], "--check", **gone)) == 2
    assert count_changes(converge([], **gone)) == 4
    assert "disk.0" not in execute(plain_host, "virsh", "domblklist", "web")
    assert execute(plain_host, "ls", vm["context"]["path"], "/var/lib/one/datastores/0/0", check=False) == ""


def test_images_with_data_are_kept(
    converge: Callable[..., str], foretold: Callable[..., str], execute: Execute
) -> None:
    datastores = [*KEPT["vmstore_datastores"], {"name": "disks", "ds_driver": "fs", "tm_driver": "ssh"}]
    images = [
        *KEPT["vmstore_images"],
        {
            "name": "empty",
            "datastore": "disks",
            "type": "datablock",
            "size": 16,
            "fs": "ext4",
            "format": "qcow2",
            "sparse": True,
        },
        {"name": "copy", "datastore": "disks", "clone_from": "empty", "driver": "raw"},
    ]
    foretold([], vmstore_datastores=datastores, vmstore_images=images)
    listed = execute(
        "hv1",
        "sh",
        "-c",
        "for image in /var/lib/one/datastores/*/*; do qemu-img info -U $image | grep '^file format'; done",
    )
    assert sorted(listed.split("\n"))[-2:] == ["file format: qcow2", "file format: raw"]
    assert count_changes(converge([], vmstore_datastores=datastores, vmstore_images=images)) == 0
