# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The roles hypervisor and frontend on unprepared hosts, and on hosts with configuration of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from documentation import ROOT, block
from lab import Lab

Playbook = Callable[..., str]
Execute = Callable[..., str]

ROLES = ("granary.vmstore.hypervisor", "granary.vmstore.frontend")
WRAPPER = "/usr/local/libexec/granary-virtiofsd"
CONFIGURATION = "/etc/granary-vmstore/virtiofsd.json"

#: A domain that is never started. {}: its name.
DOMAIN = """
<domain type='qemu'>
  <name>{}</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
</domain>
"""

#: Names of the hosts, one for each initial state of a test.
HOSTS = dict.fromkeys(("fresh", "blank", "bare", "documented", "taken", "strange"), "debian13") | {"aged": "debian12"}


@pytest.fixture(scope="module")
def lab(lab_factory: Callable[[Mapping[str, Any]], Lab]) -> Lab:
    # The name is unique, so that two sessions at once don't stop each other's lab.
    return lab_factory(
        {"name": f"roles-{os.getpid()}", "hosts": {name: {"kind": kind} for name, kind in HOSTS.items()}}
    )


@pytest.fixture(scope="module")
def execute(lab: Lab, execute_in: Callable[[Lab], Execute]) -> Execute:
    return execute_in(lab)


@pytest.fixture(scope="module")
def roles(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Playbook:
    """Run roles on hosts and return the output of Ansible."""

    def run(
        hosts: str,
        *arguments: str,
        roles: Sequence[str] = ROLES,
        tasks_from: str = "main",
        fails: bool = False,
        **variables: object,
    ) -> str:
        playbook = tmp_path_factory.mktemp("play") / "play.yml"
        tasks = [{"ansible.builtin.import_role": {"name": role, "tasks_from": tasks_from}} for role in roles]
        playbook.write_text(json.dumps([{"hosts": hosts, "gather_subset": ["min"], "vars": variables, "tasks": tasks}]))
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(lab.inventory),
            *arguments,
            str(playbook),
        ]
        done = ansible_process.run(command)
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def changes(output: str) -> dict[str, int]:
    """Return the changes on each host."""
    return {host: int(number) for host, number in re.findall(r"^(\S+) +: .*changed=(\d+)", output, re.MULTILINE)}


def count_changes(output: str) -> int:
    return sum(changes(output).values())


@pytest.fixture(scope="module")
def first_run(roles: Playbook, execute: Execute) -> str:
    """Run the roles on a new and on an old host, first in check mode, and return the output of Ansible."""
    hosts = "fresh:aged"
    look = "cat /etc/passwd /etc/group /etc/subuid /etc/subgid; ls -R /usr/local /var/lib/one 2>&1; true"
    before = [execute(host, "sh", "-c", look) for host in ("fresh", "aged")]
    foretold = roles(hosts, "--check", "--diff")
    assert "+oneadmin:100000:65536" in foretold
    assert [execute(host, "sh", "-c", look) for host in ("fresh", "aged")] == before
    output = roles(hosts)
    done = changes(output)
    assert done == changes(foretold)
    assert min(done.values()) > 0
    return output


@pytest.fixture(scope="module")
def ready(first_run: str) -> str:
    """Return the pattern of the two hosts on which the roles have run."""
    return "fresh:aged"


def test_a_second_run_changes_nothing(roles: Playbook, ready: str) -> None:
    output = roles(ready)
    assert count_changes(output) == 0
    # The lab's hosts have no network access to a package archive, and no package lists.
    assert "skipping: [fresh]" in output.split("Install the missing packages]")[1].split("TASK")[0]
    assert count_changes(roles(ready, "--check")) == 0


@pytest.mark.usefixtures("ready")
def test_a_hypervisor_is_ready(execute: Execute) -> None:
    user = execute("fresh", "getent", "passwd", "oneadmin").strip().split(":")
    assert 0 < int(user[2]) < 1000
    assert user[5:] == ["/var/lib/one", "/usr/sbin/nologin"]
    # A member of libvirt or kvm could attack the host in ways that guests must not.
    assert execute("fresh", "id", "-nG", "oneadmin").split() == ["oneadmin"]
    for name in ("subuid", "subgid"):
        assert execute("fresh", "cat", f"/etc/{name}").splitlines() == ["oneadmin:100000:65536"]
    assert execute("fresh", "systemctl", "is-active", "libvirtd.socket").strip() == "active"
    assert execute("fresh", "systemctl", "is-enabled", "libvirtd.socket").strip() == "enabled"
    assert execute("fresh", "stat", "--format=%U:%G %a", WRAPPER).strip() == "root:root 755"


@pytest.mark.usefixtures("ready")
def test_a_front_end_is_ready(execute: Execute) -> None:
    assert execute("fresh", "stat", "--format=%U:%G %a", "/var/lib/one/vmstore").strip() == "oneadmin:oneadmin 750"
    assert execute("fresh", "stat", "--format=%U:%G %a", "/var/lib/one/datastores").strip() == "oneadmin:oneadmin 755"


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize(
    ("name", "command", "reason"),
    [
        ("vmstore", "ln -s /srv/root $0", "symbolic link"),
        ("datastores", "mv /var/lib/one/root $0", "could have put it there"),
    ],
)
def test_the_service_user_gets_no_directory_of_root(
    roles: Playbook, execute: Execute, name: str, command: str, reason: str
) -> None:
    """The service user may put anything into the home directory: here links to root's directories, and such directories
    themselves.
    """
    path = f"/var/lib/one/{name}"
    execute("fresh", "mkdir", "--mode=0700", "/srv/root", "/var/lib/one/root")
    execute("fresh", "mv", path, f"{path}.before")
    execute("fresh", "setpriv", "--reuid=oneadmin", "--regid=oneadmin", "--clear-groups", "sh", "-c", command, path)
    assert reason in roles("fresh", roles=["granary.vmstore.frontend"], fails=True)
    assert execute("fresh", "stat", "--dereference", "--format=%U:%G %a", path).strip() == "root:root 700"
    execute("fresh", "rm", "-rf", path, "/srv/root", "/var/lib/one/root")
    execute("fresh", "mv", f"{path}.before", path)


def test_a_host_that_cant_map_ids_has_no_wrapper_and_says_so(first_run: str, execute: Execute) -> None:
    said = " ".join(first_run.split())
    assert said.count("can't map ids. Exports of aged need") == 1
    assert execute("aged", "ls", WRAPPER, check=False) == ""
    assert execute("aged", "cat", "/etc/subuid").splitlines() == ["oneadmin:100000:65536"]


def test_a_user_and_its_ids_are_respected(roles: Playbook, execute: Execute) -> None:
    execute("taken", "groupadd", "stewards")
    execute(
        "taken",
        "useradd",
        "--create-home",
        "--home-dir",
        "/home/keeper",
        "--shell",
        "/bin/bash",
        "--gid",
        "stewards",
        "keeper",
    )
    execute("taken", "sh", "-c", "echo keeper:700000:1000 | tee /etc/subuid >/etc/subgid")
    before = execute("taken", "sh", "-c", "getent passwd keeper; id keeper; stat -c %a:%U /home/keeper")
    roles("taken", hypervisor_service_user="keeper", frontend_service_user="keeper")
    assert execute("taken", "sh", "-c", "getent passwd keeper; id keeper; stat -c %a:%U /home/keeper") == before
    assert execute("taken", "cat", "/etc/subuid", "/etc/subgid") == "keeper:700000:1000\n" * 2
    assert execute("taken", "getent", "passwd", "oneadmin", check=False) == ""
    assert execute("taken", "stat", "--format=%U:%G", "/var/lib/one/vmstore").strip() == "keeper:stewards"
    assert json.loads(execute("taken", "cat", CONFIGURATION)) == {"user": "keeper"}
    assert count_changes(roles("taken", hypervisor_service_user="keeper", frontend_service_user="keeper")) == 0


def test_virtiofsd_has_a_user_of_its_own(roles: Playbook, execute: Execute) -> None:
    variables = {
        "roles": ["granary.vmstore.hypervisor"],
        "hypervisor_service_user": "keeper",
        "hypervisor_virtiofsd_user": "granary-virtiofsd",
    }
    assert count_changes(roles("taken", "--check", **variables)) > 0
    assert execute("taken", "getent", "passwd", "granary-virtiofsd", check=False) == ""
    roles("taken", **variables)
    assert execute("taken", "getent", "passwd", "granary-virtiofsd").strip().split(":")[5:] == [
        "/nonexistent",
        "/usr/sbin/nologin",
    ]
    assert execute("taken", "id", "-nG", "granary-virtiofsd").split() == ["granary-virtiofsd"]
    assert (
        execute(
            "taken", "find", "/", "-xdev", "(", "-user", "granary-virtiofsd", "-o", "-group", "granary-virtiofsd", ")"
        )
        == ""
    )
    assert (
        execute("taken", "cat", "/etc/subuid", "/etc/subgid")
        == "keeper:700000:1000\ngranary-virtiofsd:100000:65536\n" * 2
    )
    assert json.loads(execute("taken", "cat", CONFIGURATION)) == {"user": "granary-virtiofsd"}
    assert execute("taken", "stat", "--format=%U:%G %a", CONFIGURATION).strip() == "root:root 600"


#: Packages that a new hypervisor lacks, and packages that its play needs.
PACKAGES = ("libvirt-clients", "libvirt-daemon-system", "python3-libvirt", "uidmap", "xorriso", "virtiofsd")


@pytest.fixture(scope="module")
def bare(execute: Execute) -> str:
    """Return a host without libvirt and its related packages."""
    execute("bare", "dpkg", "--purge", "--force-depends", *PACKAGES)
    execute("bare", "rm", "-rf", "/etc/apparmor.d/usr.sbin.libvirtd")
    return "bare"


@pytest.fixture
def run(lab: Lab, tmp_path: Path) -> Callable[..., str]:
    """Run a playbook, a text or one of the collection, and return the output of Ansible."""

    def run_playbook(text: str, *arguments: str | Path) -> str:
        playbook = text
        if "\n" in text:
            (tmp_path / "play.yml").write_text(text, encoding="utf-8")
            playbook = str(tmp_path / "play.yml")
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "-i",
            str(lab.inventory),
            *arguments,
            playbook,
        ]
        done = ansible_process.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run_playbook


@pytest.mark.parametrize("host", ["blank", "bare"])
def test_a_play_can_be_checked_before_the_roles_have_run(
    run: Callable[..., str], execute: Execute, bare: str, host: str
) -> None:
    """The test covers the play of the host. test_readme.py covers the play of the guest."""
    execute(host, "mkdir", "-p", "/srv/site")
    play = yaml.safe_load(block("README.md", "A first shared directory").text.replace("kvm1", host))[:1]
    play[0]["tasks"].append(
        {"ansible.builtin.debug": {"msg": "at {{ export.device.mount_tag }} and {{ export.device.mount_point }}"}}
    )
    done = run(f"{json.dumps(play)}\n", "--check", "--diff")
    assert "at one-0 and /mnt/one-fs-0" in done
    said = " ".join(done.split())
    assert (
        "/var/lib/one/vmstore is not a directory; the role granary.vmstore.frontend makes the default one. If no task "
        "before this one" in said
    )
    assert ("The Python library of libvirt is not installed" in said) == (host == bare)
    assert (f'"msg": "{", ".join(PACKAGES)}"' in done) == (host == bare)
    # There are three tasks for the user, one for the missing packages of each of two roles, and one each for
    # directories and ids. The wrapper has three tasks, AppArmor one, and the modules three.
    assert changes(done) == {host: 13 + (host == bare)}
    assert execute(host, "ls", "/var/lib/one", WRAPPER, check=False) == ""


def test_the_example_site_can_be_checked_before_anything_of_it_is_there(
    run: Callable[..., str], bare: str, tmp_path: Path
) -> None:
    inventory = tmp_path / "inventory"
    shutil.copytree(ROOT / "examples" / "inventory", inventory)
    for path in inventory.rglob("*.yml"):
        text = path.read_text()
        for name, host in (("front", bare), ("kvm1", "blank"), ("kvm2", bare)):
            text = text.replace(f"{name}.example.com", host)
        path.write_text(text)
    done = run("granary.vmstore.site", "-i", inventory, "--check")
    assert {host: number > 0 for host, number in changes(done).items() if host in (bare, "blank")} == {
        bare: True,
        "blank": True,
    }


def test_exports_of_the_role(roles: Playbook, execute: Execute, ready: str) -> None:
    """Two domains, which never run, get a directory each, by the role or by its tasks for exports only."""
    for name in ("first", "second"):
        execute(
            "fresh",
            "sh",
            "-euc",
            'mkdir -p "/srv/$0"; chown 100000:100000 "/srv/$0"; printf %s "$1" | virsh define /dev/stdin',
            name,
            DOMAIN.format(name),
        )
    exports = [
        {"domain": name, "source": f"/srv/{name}", "mount_tag": name, "cache": "auto"} for name in ("first", "second")
    ]
    role = ["granary.vmstore.hypervisor"]

    def export(*arguments: str, exports: list[dict[str, str]]) -> int:
        return count_changes(roles("fresh", *arguments, roles=role, tasks_from="exports", hypervisor_exports=exports))

    assert export("--check", exports=exports) == 1
    assert "virtiofs" not in execute("fresh", "virsh", "dumpxml", "first")
    assert count_changes(roles("fresh", roles=role, hypervisor_exports=exports)) == 1
    for name in ("first", "second"):
        assert f"<source dir='/srv/{name}'/>" in execute("fresh", "virsh", "dumpxml", name)
    assert export(exports=exports) == 0
    assert export("--check", exports=exports) == 0
    gone = [{**exports[0], "state": "absent"}, exports[1]]
    assert export(exports=gone) == 1
    assert ["virtiofs" in execute("fresh", "virsh", "dumpxml", name) for name in ("first", "second")] == [False, True]
    said = roles("fresh", roles=role, fails=True, hypervisor_exports=[{"domain": "first", "directory": "/srv"}])
    assert "hypervisor_exports.directory. Supported parameters include" in said
    for name in ("first", "second"):
        execute("fresh", "virsh", "undefine", name)


#: Domain with a disk that has a backing file. {}: directory of the files.
DOMAIN_WITH_DISK = """
<domain type='qemu'>
  <name>chain</name>
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/><source file='{}/disk.0'/><target dev='vda' bus='virtio'/>
    </disk>
  </devices>
</domain>
"""


def test_the_service_user_manages_disks_of_domains(roles: Playbook, execute: Execute, ready: str) -> None:
    directory = "/var/lib/one/datastores/0"
    layers = (
        "mkdir -p $0; cd $0; qemu-img create -q -f qcow2 base 1M; qemu-img create -q -f qcow2 -F qcow2 -b base disk.0; "
        "chown -R oneadmin: .; chmod 640 *; stat --format=%U *"
    )
    owners = ["sh", "-c", "cd $0 && stat --format=%U disk.0 base", directory]
    users = ["ps", "-C", "qemu-system-x86", "-o", "user:32="]
    virsh = ["runuser", "-u", "oneadmin", "--", "virsh", "-c", "qemu:///system"]
    role = ["granary.vmstore.hypervisor"]
    assert execute("fresh", "sh", "-euc", layers, directory).split() == ["oneadmin"] * 2
    for xml in (DOMAIN.format("before"), DOMAIN_WITH_DISK.format(directory)):
        execute("fresh", "virsh", "define", "/dev/stdin", stdin=xml)
    execute("fresh", "virsh", "start", "before")
    assert execute("fresh", *virsh, "list", "--all", "--name", check=False).split() == []

    said = roles("fresh", roles=role, fails=True, hypervisor_qemu_user="nobody-there")
    assert 'hypervisor_qemu_user: "nobody-there" is not accepted: fresh has no such user' in said
    given: dict[str, Any] = {
        "hypervisor_service_user_uses_libvirt": True,
        "hypervisor_qemu_user": "oneadmin",
        "hypervisor_datastore_root": "/var/lib/one/datastores",
    }
    foretold = roles("fresh", "--check", roles=role, **given)
    done = roles("fresh", roles=role, **given)
    assert changes(done) == changes(foretold) == {"fresh": 3}  # two groups, and the file
    # The domain goes on with its user.
    assert "so that oneadmin runs them and owns their disks: before." in " ".join(done.split())
    assert execute("fresh", *users).split() == ["libvirt-qemu"]
    execute("fresh", *virsh, "destroy", "before")
    execute("fresh", *virsh, "start", "chain")
    assert execute("fresh", *users).split() == ["oneadmin"]
    assert execute("fresh", *owners).split() == ["oneadmin"] * 2
    execute("fresh", *virsh, "destroy", "chain")
    assert execute("fresh", *owners).split() == ["oneadmin"] * 2
    assert count_changes(roles("fresh", roles=role, **given)) == 0

    # libvirt gives no file to another user any more.
    execute("fresh", "chown", "nobody:", f"{directory}/disk.0")
    assert count_changes(roles("fresh", roles=role, **given, hypervisor_qemu_dynamic_ownership=False)) == 1
    assert execute("fresh", *virsh, "start", "chain", check=False).strip() == ""
    assert execute("fresh", *owners).split() == ["nobody", "oneadmin"]
    settings = execute("fresh", "grep", "-E", "^(user|group|dynamic_ownership)", "/etc/libvirt/qemu.conf")
    assert settings.splitlines() == ['user = "oneadmin"', 'group = "oneadmin"', "dynamic_ownership = 0"]
    for name in ("before", "chain"):
        execute("fresh", "virsh", "undefine", name)


#: Host of plays of the pages. It gathers the facts that the roles need.
DOCUMENTED = "documented\n  gather_subset: [min]"


def test_what_the_roles_pages_say_works(run: Callable[..., str], execute: Execute) -> None:
    frontend = block("roles/frontend/README.md", "granary.vmstore.frontend").text.replace(
        "vmstore_frontend", DOCUMENTED
    )
    hypervisor = block("roles/hypervisor/README.md", "granary.vmstore.hypervisor").text.replace(
        "vmstore_hypervisors", DOCUMENTED
    )
    execute("documented", "sh", "-euc", "mkdir -p /srv/web1 /srv/models; chown 100000:100000 /srv/web1")
    execute("documented", "sh", "-euc", 'printf %s "$0" | virsh define /dev/stdin', DOMAIN.format("web1"))
    assert count_changes(run(frontend)) > 0
    assert count_changes(run(hypervisor)) > 0
    assert count_changes(run(frontend + hypervisor)) == 0
    assert execute("documented", "stat", "--format=%U", "/var/lib/one/vmstore").strip() == "oneadmin"
    assert json.loads(execute("documented", "cat", CONFIGURATION)) == {"user": "granary-virtiofsd"}
    described = execute("documented", "virsh", "dumpxml", "web1")
    assert re.findall(r"<(?:source|target) dir='(.*)'/>|(<readonly/>)", described) == [
        ("/srv/web1", ""),
        ("web1", ""),
        ("/srv/models", ""),
        ("models", ""),
        ("", "<readonly/>"),
    ]


def test_what_the_page_of_the_drivers_says_works(run: Callable[..., str], execute: Execute) -> None:
    """The test includes the way back to the front-end's own script."""
    script = "/var/lib/one/remotes/datastore/fs/cp"
    execute("documented", "sh", "-euc", "getent passwd oneadmin || useradd --system oneadmin")
    execute(
        "documented",
        "sh",
        "-euc",
        'mkdir -p /var/lib/one/remotes/tm "${0%/*}"; echo "echo own" >"$0"; chown -R oneadmin: /var/lib/one',
        script,
    )
    playbook = block("roles/opennebula_drivers/README.md", "granary.vmstore.opennebula_drivers").text.replace(
        "opennebula_frontend", DOCUMENTED
    )
    foretold = changes(run(playbook, "--check"))
    assert changes(run(playbook)) == foretold
    assert "granary" in execute("documented", "cat", script)
    assert count_changes(run(playbook)) == 0
    execute("documented", "sh", "-euc", block("roles/opennebula_drivers/README.md", "The way back").text)
    assert execute("documented", "cat", script) == "echo own\n"
    assert execute("documented", "stat", "--format=%U %a", script) == "oneadmin 755\n"


@pytest.mark.usefixtures("ready")
@pytest.mark.parametrize("frontend", ["blank", "fresh"])
def test_the_site_can_be_checked_before_anything_of_it_is_there(
    lab: Lab, execute: Execute, tmp_path: Path, frontend: str
) -> None:
    for host in ("blank", "fresh"):
        execute(host, "mkdir", "-p", "/mnt/data")
    inventory = tmp_path / "site.yml"
    variables = {
        "vmstore_datastores": [{"name": "fs", "ds_driver": "virtiofs", "tm_driver": "virtiofs"}],
        "vmstore_images": [{"name": "data", "datastore": "fs", "path": "/mnt/data", "persistent": True}],
        "vmstore_exports": [{"host": "blank", "domain": "none", "image": "data"}],
        "vmstore_vms": [{"vm": "web", "host": "blank", "size": "1G", "attach": {}}],
        "vmstore_domain_volumes": [{"domain": "web", "volumes": [{"name": "a", "emptyDisk": {"capacity": "1Gi"}}]}],
        "hypervisor_service_user_uses_libvirt": True,
        "hypervisor_qemu_user": "oneadmin",
    }
    groups = {"vmstore_frontend": {"hosts": {frontend: None}}, "vmstore_hypervisors": {"hosts": {"blank": None}}}
    inventory.write_text(json.dumps({"all": {"vars": variables, "children": groups}}))
    command = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        "-i",
        str(lab.inventory),
        "-i",
        str(inventory),
        "granary.vmstore.site",
    ]
    if frontend == "fresh":
        # The front-end is complete, so that only the export is planned, on a still unprepared hypervisor.
        done = ansible_process.run([*command, "--limit", "fresh"])
        assert done.returncode == 0, done.stdout + done.stderr
    done = ansible_process.run([*command, "--check"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert count_changes(done.stdout) > 0
    assert "Check mode doesn't predict the disks of virtual machines" in done.stdout
    assert execute("blank", "ls", "/var/lib/one", WRAPPER, check=False) == ""


@pytest.mark.parametrize(
    ("release", "name"),
    [
        ("ID=ubuntu\nNAME=Ubuntu\nVERSION_ID=24.10\n", "Ubuntu 24.10"),
        ("ID=debian\nNAME='Debian GNU/Linux'\nVERSION_ID=11\n", "Debian 11"),
    ],
)
def test_another_system_is_refused_in_one_sentence(roles: Playbook, execute: Execute, release: str, name: str) -> None:
    # Only the file with the system's name differs.
    execute(
        "strange", "sh", "-c", 'rm -f /etc/debian_version /etc/os-release && printf %s "$0" >/etc/os-release', release
    )
    said = roles("strange", fails=True)
    assert (
        f"strange runs {name}, and only Debian 12, Debian 13, Ubuntu 24.04 are accepted; nobody has run this on Ubuntu "
        "yet." in said
    )
    assert count_changes(said) == 0


def test_an_option_that_is_none_is_refused(roles: Playbook) -> None:
    assert "hypervisor_subid_start" in roles("fresh", fails=True, hypervisor_subid_start="many")
