# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""The role cluster_ssh on three hosts with real sshd, from hosts without any access to hosts that come and go."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ansible_process
import pytest
import yaml
from documentation import block
from lab import Lab

Execute = Callable[..., str]
Play = Callable[..., str]

PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")
HOSTS = ("front", "kvm1", "kvm2")
PAIRS = [(source, target) for source in HOSTS for target in HOSTS]
SSH = "/var/lib/one/.ssh"
SSH_COMMAND = ["ssh", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-oConnectTimeout=10"]

#: A program for a service user: connect to all hosts in turn until the file exists, and print the number of rounds.
#: A failed connection ends it.
LOOP = """
rounds=0
until [ -e "$0" ]; do
    for host; do
        [ "$(ssh -oBatchMode=yes -oStrictHostKeyChecking=yes "$host" hostname 2>>"$0.log")" = "$host" ] || exit 1
    done
    rounds=$((rounds + 1))
    echo "$rounds" >"$0.rounds"
done
"""


@pytest.fixture(scope="module")
def lab(lab_factory: Callable[[Mapping[str, Any]], Lab]) -> Lab:
    return lab_factory(
        {
            "name": "clusterssh",
            "hosts": {name: {"kind": "debian12" if name == "kvm2" else "debian13"} for name in HOSTS},
        }
    )


@pytest.fixture(scope="module")
def execute(lab: Lab, execute_in: Callable[[Lab], Execute]) -> Execute:
    return execute_in(lab)


@pytest.fixture(scope="module")
def play(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Run the role on the hosts of an inventory and return the output of Ansible."""
    directory = tmp_path_factory.mktemp("cluster")

    def run(
        *arguments: str,
        hosts: Sequence[str] = HOSTS,
        text: str = "",
        fails: bool = False,
        variables: Mapping[str, Mapping[str, object]] | None = None,
        **common: object,
    ) -> str:
        groups = {"vmstore_frontend": hosts[:1], "vmstore_hypervisors": hosts[1:]}
        children = {
            name: {"hosts": {host: dict((variables or {}).get(host, {})) for host in members}}
            for name, members in groups.items()
        }
        inventory, playbook = directory / "site.yml", directory / "play.yml"
        inventory.write_text(yaml.safe_dump({"all": {"children": children, "vars": common}}))
        play = {
            "hosts": "vmstore_frontend:vmstore_hypervisors",
            "gather_subset": ["min"],
            "roles": ["granary.vmstore.cluster_ssh"],
        }
        playbook.write_text(text or json.dumps([play]))
        done = ansible_process.run([PLAYBOOK, "-i", lab.inventory, "-i", inventory, *arguments, playbook])
        assert (done.returncode != 0) == fails, done.stdout + done.stderr
        assert "PRIVATE KEY" not in done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def changes(output: str) -> dict[str, int]:
    """Return the changes on each host."""
    return {host: int(number) for host, number in re.findall(r"^(\S+) +: .*changed=(\d+)", output, re.MULTILINE)}


def count_changes(output: str) -> int:
    return sum(changes(output).values())


def sentence(output: str) -> str:
    return " ".join(output.split())


@pytest.fixture(scope="module")
def reaches(execute: Execute) -> Callable[[str, str], bool]:
    """Return whether the service user of a host can run a command on a host by ssh."""

    def run(source: str, target: str) -> bool:
        command = ["runuser", "-u", "oneadmin", "--", *SSH_COMMAND, target, "hostname"]
        return execute(source, *command, check=False).strip() == target

    return run


@pytest.fixture(scope="module")
def public_key(execute: Execute) -> Callable[[str], str]:
    """Return the public key of a host's service user."""

    def read(host: str) -> str:
        return " ".join(execute(host, "ssh-keygen", "-y", "-f", f"{SSH}/id_ed25519").split()[:2])

    return read


@pytest.fixture(scope="module")
def first_run(play: Play, execute: Execute, reaches: Callable[[str, str], bool]) -> str:
    """Run the role for the first time, and return its output."""
    assert not any(reaches(*pair) for pair in PAIRS)
    foretold = play("--check", "--diff")
    assert all(execute(host, "sh", "-c", "ls -d /var/lib/one; true") == "" for host in HOSTS)
    done = play("--diff", text=block("roles/cluster_ssh/README.md", "granary.vmstore.cluster_ssh").text)
    assert changes(done) == changes(foretold)
    assert min(changes(done).values()) > 0
    return done


@pytest.mark.usefixtures("first_run")
def test_each_host_reaches_each(reaches: Callable[[str, str], bool]) -> None:
    assert [pair for pair in PAIRS if not reaches(*pair)] == []


@pytest.mark.usefixtures("first_run")
def test_a_second_run_changes_nothing(play: Play) -> None:
    assert count_changes(play()) == 0
    assert count_changes(play("--check")) == 0


def test_diffs_show_the_lines_of_the_cluster(first_run: str, public_key: Callable[[str], str]) -> None:
    assert f"restrict {public_key('kvm1')} granary.vmstore.cluster_ssh:kvm1" in first_run


@pytest.mark.usefixtures("first_run")
def test_files_belong_to_the_service_user_only(execute: Execute) -> None:
    names = f"{SSH} {SSH}/authorized_keys {SSH}/known_hosts {SSH}/id_ed25519 {SSH}/id_ed25519.pub"
    for host in HOSTS:
        found = execute(host, "sh", "-c", f"stat --format='%U:%G %a' {names}").splitlines()
        assert found == ["oneadmin:oneadmin 700", *["oneadmin:oneadmin 600"] * 3, "oneadmin:oneadmin 644"]
        assert sorted(execute(host, "ls", "-A", SSH).split()) == [
            ".cluster_ssh.lock",
            "authorized_keys",
            "id_ed25519",
            "id_ed25519.pub",
            "known_hosts",
        ]


@pytest.mark.usefixtures("first_run")
def test_each_host_has_its_own_key(public_key: Callable[[str], str]) -> None:
    assert len({public_key(host) for host in HOSTS}) == len(HOSTS)


@pytest.mark.usefixtures("first_run")
def test_a_key_permits_commands_only(execute: Execute) -> None:
    def refusal(*options: str) -> str:
        command = shlex.join(["runuser", "-u", "oneadmin", "--", "ssh", "-oBatchMode=yes", *options])
        return execute("front", "sh", "-c", f"{command} </dev/null 2>&1; true")

    assert "PTY allocation request failed" in refusal("-tt", "kvm1", "true")
    assert "administratively prohibited" in refusal("-W", "127.0.0.1:22", "kvm1")
    # The key works from the addresses of its host only.
    execute(
        "kvm2",
        "install",
        "--mode=0600",
        "/dev/stdin",
        "/root/stolen",
        stdin=execute("front", "cat", f"{SSH}/id_ed25519"),
    )
    stolen = [
        "ssh",
        "-oBatchMode=yes",
        "-oStrictHostKeyChecking=no",
        "-oUserKnownHostsFile=/dev/null",
        "-i",
        "/root/stolen",
    ]
    assert execute("kvm2", *stolen, "oneadmin@kvm1", "hostname", check=False) == ""
    assert execute("kvm2", *stolen, "oneadmin@127.0.0.1", "hostname", check=False) == ""
    execute("kvm2", "rm", "/root/stolen")


@pytest.mark.usefixtures("first_run")
def test_a_rotation_interrupts_no_connection(play: Play, execute: Execute, public_key: Callable[[str], str]) -> None:
    """Each host connects to all hosts all the time, and no connection fails. Lines of others stay."""
    before = {host: public_key(host) for host in HOSTS}
    foreign = {"authorized_keys": "ssh-rsa AAAAB3NzaC1yc2E= somebody\n", "known_hosts": "|1|x=|x= ssh-rsa AAAA\n"}
    for name, line in foreign.items():
        execute("kvm1", "sh", "-c", 'cat >>"$0"', f"{SSH}/{name}", stdin=line)
    for host in HOSTS:
        unit = ["systemd-run", "--quiet", "--unit=loop", "--property=User=oneadmin", "--remain-after-exit"]
        execute(host, *unit, "sh", "-c", LOOP, "/tmp/loop", *HOSTS)
    foretold = play("--check", cluster_ssh_rotate=True)
    done = play(cluster_ssh_rotate=True)
    for host in HOSTS:
        execute(host, "touch", "/tmp/loop")
        ended = 'until [ "$(systemctl show --property=SubState --value loop)" != running ]; do sleep 0.1; done'
        execute(host, "timeout", "50", "sh", "-c", ended)
        result = execute(host, "systemctl", "show", "--property=Result", "--value", "loop").strip()
        assert result == "success", execute(host, "cat", "/tmp/loop.log")
        assert int(execute(host, "cat", "/tmp/loop.rounds")) > 2
    assert changes(foretold) == changes(done)
    after = {host: public_key(host) for host in HOSTS}
    assert set(before.values()).isdisjoint(after.values())
    for host in HOSTS:
        text = execute(host, "cat", f"{SSH}/authorized_keys")
        assert [key for key in before.values() if key in text] == []
        assert len(execute(host, "ls", "-A", SSH).split()) == 5
    for name, line in foreign.items():
        assert line in execute("kvm1", "cat", f"{SSH}/{name}")


@pytest.mark.usefixtures("first_run")
def test_a_rotation_waits_for_a_host_outside_the_run(
    play: Play, reaches: Callable[[str, str], bool], public_key: Callable[[str], str]
) -> None:
    before = {host: public_key(host) for host in HOSTS}
    said = sentence(play("--limit", "front,kvm1", cluster_ssh_rotate=True))
    assert "front goes on with its old key, because its new key isn't accepted yet by kvm2." in said
    assert "Not in this run, or failed: kvm2." in said
    assert {host: public_key(host) for host in HOSTS} == before
    assert [pair for pair in PAIRS if not reaches(*pair)] == []
    play()
    after = {host: public_key(host) for host in HOSTS}
    assert [host for host in HOSTS if after[host] != before[host]] == ["front", "kvm1"]
    assert [pair for pair in PAIRS if not reaches(*pair)] == []


@pytest.mark.usefixtures("first_run")
def test_a_host_that_leaves_loses_its_access(play: Play, execute: Execute, reaches: Callable[[str, str], bool]) -> None:
    assert changes(play(hosts=("front", "kvm1"))) == {"front": 1, "kvm1": 1}
    assert not reaches("kvm2", "front")
    assert not reaches("front", "kvm2")  # its host key is forgotten, too
    assert reaches("kvm1", "front")
    assert "kvm2" not in execute("front", "sh", "-c", f"cat {SSH}/*")

    # It comes back with a further name and further addresses.
    execute("front", "sh", "-c", "echo $(getent hosts kvm2 | cut -d' ' -f1) storage2 >>/etc/hosts")
    names, addresses = ["storage2", "[storage2]:2222"], ["192.0.2.0/24"]
    play(variables={"kvm2": {"cluster_ssh_names": names, "cluster_ssh_addresses": addresses}})
    assert [pair for pair in PAIRS if not reaches(*pair)] == []
    known = execute("front", "runuser", "-u", "oneadmin", "--", *SSH_COMMAND, "storage2", "hostname")
    assert known.strip() == "kvm2"
    assert execute("front", "ssh-keygen", "-F", "[storage2]:2222", "-f", f"{SSH}/known_hosts")
    assert "192.0.2.0/24" in execute("front", "cat", f"{SSH}/authorized_keys")


@pytest.mark.usefixtures("first_run")
def test_a_refused_connection_is_reported(play: Play, execute: Execute) -> None:
    configuration = "/etc/ssh/sshd_config.d/a.conf"
    execute("kvm1", "sh", "-c", f"echo DenyUsers oneadmin >{configuration} && systemctl reload ssh")
    said = sentence(play(fails=True))
    assert "oneadmin of front can't run a command on kvm1 by ssh: oneadmin@kvm1: Permission denied" in said
    execute("kvm1", "sh", "-c", f"rm {configuration} && systemctl reload ssh")
