# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The modules ``nfs_export`` and ``nfs_export_info``, and the role ``nfs_server``, on hosts with kernels of their own.
A host is a real NFS server, and others mount its exports.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import (
    CommandFailed,
    Conflict,
    InvalidInput,
)
from documentation import ROOT, block
from lab import Lab
from refusal import require_failure

Module = Callable[..., dict[str, Any]]
HERE = Path(__file__).parent
DATA = "/srv/vmstore"
POINT = "/mnt/vmstore"
SERVICE = 9869
CLEAN_CLIENT = f"umount -a -f -l -t nfs,nfs4 || true; mkdir -p {POINT}"
CLEAN_SERVER = (
    "rm -rf /etc/exports.d/* /etc/nfs.conf.d/granary-vmstore.conf; : >/etc/exports; systemctl start nfs-server; "
    "grep -q +3 /proc/fs/nfsd/versions || systemctl restart nfs-server; "
    # The server uses a file system for a moment after the last client.
    "exportfs -ra; while mountpoint -q /srv/other; do umount -q /srv/other || sleep 0.1; done; "
    f"rm -rf /srv/*; install -d -m 1777 {DATA}"
)


class Site:
    """The server ``nfs`` and its clients ``frontend`` and ``hv1``."""

    def __init__(self, lab: Lab, module: Module) -> None:
        self.lab = lab
        self.hosts = lab.hosts()
        self._module = module

    def sh(self, script: str, host: str = "nfs") -> str:
        return str(self.hosts[host].execute("sh", "-ec", script).stdout)

    def clean(self) -> None:
        self.sh(CLEAN_CLIENT, "frontend")
        self.sh(CLEAN_SERVER)

    def export(self, **options: object) -> dict[str, Any]:
        if options.get("state") != "absent" and "clients" not in options:
            options = {"client": self.network(), "options": ["rw"], **options}
        return self._module("nfs", "nfs_export", **{"path": DATA, **options})

    def info(self) -> dict[str, Any]:
        return self._module("nfs", "nfs_export_info")

    def network(self) -> str:
        return self.hosts["nfs"].address.rpartition(".")[0] + ".0/24"

    def exported(self) -> dict[str, str]:
        """Return the options by path and client, according to exportfs."""
        lines = self.sh("exportfs -v").replace("\n\t\t", " ").splitlines()
        found = (re.sub(r"[ \t]+", " ", line).partition("(") for line in lines)
        return {export: options.rstrip(")") for export, _bracket, options in found if export}

    def files(self) -> str:
        return self.sh("cat /etc/exports; tail -n +1 /etc/exports.d/* 2>/dev/null || true")

    def mount(self, path: str = DATA, host: str = "frontend", options: str = "vers=4.2") -> None:
        source = f"{self.hosts['nfs'].address}:{path}"
        self.sh(f"mount -t nfs -o {options} {shlex.quote(source)} {POINT}", host)

    def play(self, play: object, *arguments: str, tmp_path: Path) -> str:
        """Run a play, and return the output of Ansible."""
        (tmp_path / "play.yml").write_text(play if isinstance(play, str) else yaml.safe_dump(play))
        command = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(self.lab.inventory)),
            *arguments,
            str(tmp_path / "play.yml"),
        ]
        done = ansible_process.run(command)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def shared_site(nfs_lab: Lab, module_in: Callable[[Lab], Module]) -> Iterator[Site]:
    site = Site(nfs_lab, module_in(nfs_lab))
    yield site
    site.clean()


@pytest.fixture(scope="module")
def clean_site(shared_site: Site) -> Site:
    """Return the hosts for several tests that change nothing."""
    shared_site.clean()
    return shared_site


@pytest.fixture
def site(shared_site: Site) -> Site:
    """Return the hosts without exports and mounts."""
    shared_site.clean()
    return shared_site


def count_changes(output: str) -> int:
    """Return the number of changed tasks on the server."""
    return int(re.search(r"^nfs +: .* changed=([0-9]+) ", output, re.MULTILINE)[1])


def names(result: dict[str, Any]) -> list[str]:
    return [action["name"] for action in result["actions"]]


def test_check_run_again_check_again(site: Site) -> None:
    checked = site.export(check=True)
    assert (checked["changed"], site.exported(), site.files()) == (True, {}, "")
    done = site.export()
    assert (done["export"], done["actions"]) == (checked["export"], checked["actions"])
    assert names(done) == ["add export", "update export table"]
    (options,) = site.exported().values()
    assert site.exported().keys() == {f"{DATA} {site.network()}"}
    assert {"rw", "root_squash", "sync"} <= set(options.split(","))
    site.mount()
    assert site.sh(f"touch {POINT}/new && stat -c %u {POINT}/new", "frontend") == "65534\n"
    for check in (False, True):
        again = site.export(check=check, options=["root_squash", "sync,rw"])
        assert (again["changed"], again["actions"]) == (False, [])
        assert again["export"]["live"] == [{"client": site.network(), "options": ["rw", "sync", "root_squash"]}]
        assert again["export"]["clients_live"] == [{"address": site.hosts["frontend"].address, "version": "4.2"}]


def test_other_options_reach_a_client_that_has_it_mounted(site: Site) -> None:
    site.export()
    site.mount()
    site.sh(f"touch {POINT}/first", "frontend")
    assert names(site.export(options=["ro"])) == ["replace export", "update export table", "update kernel exports"]
    assert "Read-only file system" in site.sh(f"touch {POINT}/second 2>&1 || true", "frontend")
    site.export(options=["rw", "no_root_squash"])
    assert site.sh(f"touch {POINT}/third && stat -c %u {POINT}/third", "frontend") == "0\n"


def test_what_another_program_has_changed_is_repaired(site: Site) -> None:
    site.export()
    site.sh(f"exportfs -o ro {site.network()}:{DATA}")
    assert names(site.export()) == ["update export table"]
    assert "rw" in site.exported()[f"{DATA} {site.network()}"].split(",")
    site.sh("exportfs -ua")
    assert names(site.export()) == ["update export table"]
    assert f"{DATA} {site.network()}" in site.exported()


def test_lines_of_other_people_stay(site: Site) -> None:
    text = f"# ours\n/srv\t*(ro) \\\n  @group # more\n{DATA} 192.0.2.7(ro)\n"
    site.sh(f"printf %s {shlex.quote(text)} >/etc/exports")
    site.export()
    assert site.sh("cat /etc/exports") == text
    assert site.exported().keys() == {"/srv <world>", "/srv @group", f"{DATA} 192.0.2.7", f"{DATA} {site.network()}"}
    failed = site.export(client="192.0.2.7")
    require_failure(failed, Conflict, names=["4", "/etc/exports", DATA, "192.0.2.7"])
    site.export(state="absent")
    assert site.sh("cat /etc/exports") == text
    assert site.exported().keys() == {"/srv <world>", "/srv @group", f"{DATA} 192.0.2.7"}


def test_removal_names_the_clients(site: Site) -> None:
    site.export()
    site.mount()
    site.sh(f"touch {POINT}/file", "frontend")
    address = site.hosts["frontend"].address
    checked = site.export(state="absent", check=True)
    assert f"Connected clients lose {DATA}: {address} (NFSv4.2)." in " ".join(checked["warnings"].split())
    assert site.sh(f"ls {POINT}", "frontend") == "file\n"
    done = site.export(state="absent")
    assert names(done) == ["remove export", "update export table", "update kernel exports"]
    assert f"connected client {address} (NFSv4.2)\n" in done["actions"][-1]["before"]
    assert f"Connected clients lose {DATA}: {address} (NFSv4.2)." in " ".join(done["warnings"].split())
    assert (site.exported(), site.files()) == ({}, "")
    assert site.export(state="absent")["actions"] == []
    # A client may know the content of the directory without its server, and never the free space.
    assert site.sh(f"df {POINT} >/dev/null 2>&1 || echo refused", "frontend") == "refused\n"


@pytest.mark.parametrize(
    ("options", "option", "value"),
    [
        ({"path": "/etc"}, "path", "'/etc'"),
        ({"clients": [{"client": "nfs"}, {"client": "NFS"}]}, "clients", "'NFS'"),
        ({"client": None}, "client", "missing"),
    ],
)
def test_bad_input_changes_nothing(options: dict[str, object], option: str, value: str, clean_site: Site) -> None:
    """The unit tests of the service have all other values that are refused."""
    require_failure(clean_site.export(**options), InvalidInput, option=option, names=[value])
    assert (clean_site.exported(), clean_site.files()) == ({}, "")


def test_file_systems_that_cannot_be_exported(site: Site) -> None:
    """The kernel refuses an overlay, and the old state comes back."""
    site.sh("mkdir -p /srv/other; mount -t overlay -o lowerdir=/usr:/etc none /srv/other")
    failed = site.export(path="/srv/other", options=["fsid=7"])
    require_failure(failed, CommandFailed, names=["/srv/other"])
    assert (site.exported(), site.files()) == ({}, "")
    site.sh("umount /srv/other; mount -t tmpfs none /srv/other")
    done = site.export(path="/srv/other")
    assert "The identity of the tmpfs of /srv/other can change with each mount" in " ".join(done["warnings"].split())
    word = re.search(r"such as (fsid=[0-9a-f-]{36})\.", " ".join(done["warnings"].split()))[1]
    assert "can change" not in site.export(path="/srv/other", options=["rw", word])["warnings"]
    site.mount("/srv/other")


def test_a_stopped_server_exports_it_at_its_start(site: Site) -> None:
    site.sh("systemctl stop nfs-server")
    done = site.export(options=["rw", "insecure"])
    assert "The NFS server isn't running on this host" in " ".join(done["warnings"].split())
    assert done["export"]["live"] is None
    assert site.info()["server"]["running"] is False
    site.sh("systemctl start nfs-server")
    assert not site.export(options=["rw", "insecure"])["changed"]
    assert "insecure" in site.exported()[f"{DATA} {site.network()}"]
    site.mount()


def test_a_path_with_blanks(site: Site) -> None:
    path = "/srv/with  blank \"and' #é"
    site.sh(f"install -d -m 1777 {shlex.quote(path)}")
    site.export(path=path)
    assert not site.export(path=path, check=True)["changed"]
    site.mount(path)
    site.sh(f"touch {POINT}/here", "frontend")
    assert site.sh(f"ls {shlex.quote(path)}") == "here\n"


def test_a_client_by_another_name(site: Site) -> None:
    """exportfs and the kernel have the host under its canonical name."""
    address = site.hosts["frontend"].address
    site.sh(f"cp -p /etc/hosts /root/hosts; sed -i '1i {address} store.example.org store' /etc/hosts")
    try:
        site.export(client="store")
        assert site.exported().keys() == {f"{DATA} store.example.org"}
        site.mount()
        site.sh(f"ls {POINT}", "frontend")
        again = site.export(client="STORE")
        assert (again["changed"], again["actions"]) == (False, [])
        assert again["export"]["clients_live"] == [{"address": address, "version": "4.2"}]
        assert again["export"]["live"] == [{"client": "store.example.org", "options": ["rw", "sync", "root_squash"]}]
    finally:
        site.sh("cat /root/hosts >/etc/hosts")


def test_info(site: Site) -> None:
    site.sh("echo '/srv 192.0.2.7(ro)' >/etc/exports; exportfs -ra")
    site.export()
    site.mount()
    site.sh(f"ls {POINT}", "frontend")
    found = site.info()
    assert found["server"]["running"]
    assert found["server"]["threads"] == int(site.sh("cat /proc/fs/nfsd/threads"))
    other, own = found["exports"]
    assert [(one["path"], one["clients"][0]["file"], one["clients"][0]["line"]) for one in (other, own)] == [
        ("/srv", "/etc/exports", 1),
        (DATA, "/etc/exports.d/srv-vmstore.exports", 1),
    ]
    assert own["live"] == [{"client": site.network(), "options": ["rw", "sync", "root_squash"]}]
    assert own["clients_live"] == [{"address": site.hosts["frontend"].address, "version": "4.2"}]
    assert (other["live"], other["clients_live"]) == ([], [])


def read_examples(module: str) -> list[dict[str, Any]]:
    text = (ROOT / "plugins" / "modules" / f"{module}.py").read_text()
    return list(yaml.safe_load(re.search(r'EXAMPLES = r"""\n(.*?)"""', text, re.DOTALL)[1]))


def test_each_example_runs_and_runs_again_without_a_change(site: Site, tmp_path: Path) -> None:
    examples = read_examples("nfs_export")
    twice = [example for example in examples for _time in range(2)]
    output = site.play([{"hosts": "nfs", "gather_facts": False, "tasks": twice}], tmp_path=tmp_path)
    assert re.findall(r"^(ok|changed): \[nfs\]$", output, re.MULTILINE) == ["changed", "ok"] * len(examples)


def test_the_examples_of_info_run(site: Site, tmp_path: Path) -> None:
    site.export()
    play = [{"hosts": "nfs", "gather_facts": False, "tasks": read_examples("nfs_export_info")}]
    assert count_changes(site.play(play, tmp_path=tmp_path)) == 0


# The role


def run_readme(site: Site, text: str, tmp_path: Path, *arguments: str) -> int:
    """Run a play of a page in the lab's network, and return the number of changes.

    The play gathers a minimum of facts, because others take a User-Mode Linux longer than a task.
    """
    for old, new in (("192.0.2.0/24", site.network()), ("- hosts: nfs\n", "- hosts: nfs\n  gather_subset: [min]\n")):
        assert old in text
        text = text.replace(old, new)
    return count_changes(site.play(text, *arguments, tmp_path=tmp_path))


def test_the_role_of_its_readme(site: Site, tmp_path: Path) -> None:
    site.sh(f"rmdir {DATA}; mkdir /srv/old")
    site.export(path="/srv/old")
    text = block("roles/nfs_server/README.md", "granary.vmstore.nfs_server").text
    expected = run_readme(site, text, tmp_path, "--check")
    assert f"{DATA} {site.network()}" not in site.exported()
    assert run_readme(site, text, tmp_path) == expected
    assert site.exported().keys() == {f"{DATA} {site.network()}"}
    assert "-3" in site.sh("cat /proc/fs/nfsd/versions").split()
    assert site.sh(f"stat -c '%u %a' {DATA}") == "0 755\n"
    assert run_readme(site, text, tmp_path) == 0
    site.mount()
    source = f"{site.hosts['nfs'].address}:{DATA}"
    site.sh(f"umount {POINT}; ! mount -t nfs -o vers=3,nolock,retry=0 {source} {POINT} 2>/dev/null", "frontend")


def test_the_role_of_the_guide_and_nfs_3(site: Site, tmp_path: Path) -> None:
    text = block("docs/shared-storage.md", "Exports").text
    run_readme(site, text, tmp_path, "-e", "nfs_server_v3=true")
    assert "+3" in site.sh("cat /proc/fs/nfsd/versions").split()
    assert site.sh(f"stat -c '%u:%g %a' {DATA}") == f"{SERVICE}:{SERVICE} 755\n"
    assert run_readme(site, text, tmp_path, "-e", "nfs_server_v3=true", "--check") == 0
    site.mount(options="vers=3,nolock")
    (client,) = (one for one in site.info()["exports"][0]["clients_live"] if one["version"] == "3")
    assert client["address"] == site.hosts["frontend"].address
    assert f"{client['address']} (NFSv3)" in " ".join(site.export(state="absent", check=True)["warnings"].split())


# The guide's table of squash options

#: The user, the mode of the directory and the operation of each row.
ROWS = {
    "root creates a file": ("root", "0755", "create"),
    "root reads and writes the service user's file with mode 0600": ("root", "0755", "write"),
    "root changes the owner of a file (chown)": ("root", "0755", "chown"),
    "root lists the directory with mode 0750": ("root", "0750", "list"),
    "the service user creates files, and changes the mode of its own": ("service", "0755", "chmod"),
    "the service user changes the owner of a file": ("service", "0755", "chown"),
    "another user, such as 100000, creates a file": ("mapped", "0755", "create"),
}
SQUASH = ("root_squash", "no_root_squash", f"all_squash,anonuid={SERVICE},anongid={SERVICE}")


def test_squash_is_as_the_guide_has_it(site: Site) -> None:
    program = (HERE / "nfs_users.py").read_bytes()
    site.hosts["frontend"].execute("sh", "-c", "cat >/root/nfs_users.py", stdin=program)
    measured = []
    for options in SQUASH:
        site.export(options=["rw", options])
        measured.append({mode: measure(site, mode) for mode in ("0755", "0750")})
    assert {
        row: [describe(by_mode[mode][user], operation) for by_mode in measured]
        for row, (user, mode, operation) in ROWS.items()
    } == read_table("Squash")
    # What the guide has on virtiofs with mapped ids.
    assert {by_mode["0755"]["mapped"]["chown"] for by_mode in measured} == {"EPERM"}


def measure(site: Site, mode: str) -> dict[str, dict[str, str]]:
    """Return the results of the users' operations, with the owners of created files according to the server."""
    site.sh(
        f"cd {DATA}; rm -f *; touch private given-root given-service given-mapped; chmod 600 *; "
        f"chown -R {SERVICE}:{SERVICE} {DATA}; chmod {mode} {DATA}"
    )
    site.mount(options="vers=4.2,noac")
    found = json.loads(site.sh(f"python3 /root/nfs_users.py {POINT}; umount {POINT}", "frontend"))
    owners = site.sh(f"cd {DATA}; for user in {' '.join(found)}; do stat -c %u $user 2>/dev/null || echo; done")
    for results, owner in zip(found.values(), owners.splitlines(), strict=True):
        results["owner"] = owner
    return dict(found)


def describe(results: dict[str, str], operation: str) -> str:
    """Return the guide's words for a result."""
    if results[operation] != "ok":
        return f"`{results[operation]}`"
    if operation == "create":
        return f"The file belongs to {'root' if results['owner'] == '0' else results['owner']}"
    return "yes"


def read_table(heading: str) -> dict[str, list[str]]:
    """Return the first table below a heading of the guide, by the first cells of its rows."""
    section = (ROOT / "docs" / "shared-storage.md").read_text().partition(f"### {heading}\n")[2]
    lines = [line for line in section.partition("\n#")[0].splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0]: row[1:] for row in rows}
