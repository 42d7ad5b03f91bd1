# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of exportfs and of the kernel, recorded with nfs-utils 2.8.3 and Linux 6.1."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs import clients, exportfs, nfsd
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs.clients import LiveClient

TABLE = """\
/srv/data  hv1(sync,wdelay,hide,no_subtree_check,sec=sys,ro,secure,root_squash,no_all_squash)
/srv/data  2001:DB8:0:0::5(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,root_squash,no_all_squash)
/srv/a-very-long-path-name-for-wrapping/data  10.99.0.0/255.255.0.0(async,wdelay,hide,no_subtree_check,sec=sys,rw,secure,root_squash,no_all_squash)
/srv/data  @group(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,root_squash,no_all_squash)
/srv/a\\040b  *(sync,wdelay,hide,no_subtree_check,fsid=12,anonuid=9869,anongid=9869,sec=sys,rw,insecure,root_squash,all_squash)
/srv/q"uote  *(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,root_squash,no_all_squash)
/srv/ba\\134ck  *.example.org(sync,wdelay,hide,no_subtree_check,mountpoint=/a b,sec=sys,rw,secure,root_squash,no_all_squash)
/srv/data  (sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,root_squash,no_all_squash)
a warning that is no entry
"""  # noqa: E501

KERNEL = """\
# Version 1.1
# Path Client(Flags) # IPs
/\t*,10.99.77.0/24,hv1(ro,insecure,no_root_squash,sync,no_wdelay,no_subtree_check,v4root,fsid=0,sec=1)
/srv/data\t*,10.99.77.0/24,hv1(rw,no_root_squash,sync,wdelay,no_subtree_check,uuid=173c584c:3a174864:b0808125:74719638,sec=1)
/srv/a\\040b\t@group(rw,root_squash,all_squash,async,wdelay,no_subtree_check,anonuid=9869,anongid=9869,sec=390003:390004)
"""  # noqa: E501

CLIENT = """\
clientid: 0x6a77e9426b0c18cd
address: "10.99.77.2:781"
status: confirmed
seconds from last renew: 4
name: "Linux NFSv4.2 hv1"
minor version: 2
Implementation domain: "kernel.org"
"""

RMTAB = """\
10.99.77.2:/srv/a b:0x00000001
2001:db8::7:/srv/data/below:0x00000002
hv1.example.org:/srv/data:0x00000001
10.99.77.3:/srv/data
"""


def test_table_of_exportfs() -> None:
    assert [(one.path, one.client, ",".join(one.options.summarize())) for one in exportfs.parse(TABLE)] == [
        ("/srv/data", "hv1", "ro,sync,root_squash"),
        ("/srv/data", "2001:DB8:0:0::5", "rw,sync,root_squash"),
        ("/srv/a-very-long-path-name-for-wrapping/data", "10.99.0.0/255.255.0.0", "rw,async,root_squash"),
        ("/srv/data", "@group", "rw,sync,root_squash"),
        ("/srv/a b", "*", "rw,sync,root_squash,all_squash,insecure,anonuid=9869,anongid=9869,fsid=12"),
        ('/srv/q"uote', "*", "rw,sync,root_squash"),
        ("/srv/ba\\ck", "*.example.org", "rw,sync,root_squash,mountpoint=/a b"),
        ("/srv/data", "*", "rw,sync,root_squash"),
    ]


def test_some_versions_hide_the_port_without_a_server() -> None:
    (entry,) = exportfs.parse("/srv *(sync,wdelay,hide,no_subtree_check,sec=sys,rw,root_squash,no_all_squash)\n")
    (known,) = exportfs.parse("/srv *(sync,wdelay,hide,no_subtree_check,sec=sys,rw,secure,root_squash,no_all_squash)\n")
    insecure = nfsd.read_options(["rw", "insecure"])
    assert (entry.has(insecure), known.has(insecure)) == (True, False)
    assert not entry.has(nfsd.read_options(["insecure"]))


def test_table_of_the_kernel() -> None:
    found = nfsd.parse_live_exports(KERNEL)
    assert [(one.path, one.clients, ",".join(one.options.summarize())) for one in found] == [
        ("/srv/data", ("*", "10.99.77.0/24", "hv1"), "rw,sync,no_root_squash"),
        (
            "/srv/a b",
            ("@group",),
            "rw,async,root_squash,all_squash,anonuid=9869,anongid=9869,sec=krb5:krb5i",
        ),
    ]
    # The kernel prints neither mount points nor access control lists.
    assert found[0].is_current(nfsd.read_options("rw,no_root_squash,no_acl,mp,fsid=3".split(",")))
    assert not found[0].is_current(nfsd.read_options(["rw"]))


def test_a_client_with_a_lease() -> None:
    assert clients.parse_client(CLIENT) == LiveClient("10.99.77.2", "4.2")
    ipv6 = CLIENT.replace("10.99.77.2:781", "[2001:db8::7%eth0]:781").replace("version: 2", "version: 0")
    assert str(clients.parse_client(ipv6)) == "2001:db8::7%eth0 (NFSv4.0)"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("status: confirmed", "status: courtesy"),
        ("status: confirmed", "status: unconfirmed"),
        ("10.99.77.2:781", "hv1:781"),
        ('"10.99.77.2:781"', ""),
        ("minor version: 2\n", ""),
        (CLIENT, ""),
    ],
)
def test_others_are_not_connected(old: str, new: str) -> None:
    assert clients.parse_client(CLIENT.replace(old, new)) is None


def test_a_name_of_the_client_adds_no_line() -> None:
    hostile = CLIENT.replace("Linux NFSv4.2 hv1", 'x\\naddress: \\"192.0.2.1:1\\"')
    assert clients.parse_client(hostile) == LiveClient("10.99.77.2", "4.2")


def test_records_of_nfs3_count_by_address() -> None:
    assert clients.parse_rmtab(RMTAB) == [
        LiveClient("10.99.77.2", "3", "/srv/a b"),
        LiveClient("2001:db8::7", "3", "/srv/data/below"),
    ]


def test_clients_of_an_export() -> None:
    live = [
        LiveClient("10.99.77.2", "4.2"),
        LiveClient("10.99.78.2", "4.2"),
        LiveClient("10.99.77.2", "3", "/srv/data"),
        LiveClient("10.99.77.3", "3", "/srv/data/below"),
        LiveClient("10.99.77.4", "3", "/srv/database"),
    ]
    domains = {"10.99.78.2": ("@group", "hv7.example.org"), "10.99.77.2": ("10.99.77.0/24",)}

    def found(*exported_to: str) -> list[str]:
        return [str(one) for one in clients.clients_of("/srv/data", exported_to, live, domains)]

    assert found("10.99.77.0/24") == ["10.99.77.2 (NFSv4.2)", "10.99.77.2 (NFSv3)", "10.99.77.3 (NFSv3)"]
    assert found("10.99.77.3", "HV7.example.org") == ["10.99.78.2 (NFSv4.2)", "10.99.77.3 (NFSv3)"]
    assert found("@group") == ["10.99.78.2 (NFSv4.2)"]
    assert found("hv1") == []


def test_a_running_and_a_stopped_server(tmp_path: Path) -> None:
    proc = tmp_path / "fs" / "nfsd"
    assert (nfsd.read_threads(str(tmp_path)), nfsd.read_versions(str(tmp_path))) == (0, [])
    assert (nfsd.read_live_exports(str(tmp_path)), clients.read_clients(str(tmp_path), str(tmp_path / "no"))) == (
        [],
        [],
    )
    (proc / "clients" / "3").mkdir(parents=True)
    (proc / "clients" / "4").mkdir()  # a client that leaves
    (proc / "clients" / "3" / "info").write_text(CLIENT)
    (proc / "threads").write_text("8\n")
    (proc / "versions").write_text("-2 +3 +4 -4.0 +4.1 +4.2\n")
    cache = tmp_path / "net" / "rpc" / "nfsd.export"
    cache.mkdir(parents=True)
    # The kernel has forgotten the last line, and not freed it.
    forgotten = KERNEL.splitlines()[-1].replace("/srv/a b", "/srv/b")
    (cache / "content").write_text(f"{KERNEL}# {forgotten}\n")
    assert (nfsd.read_threads(str(tmp_path)), nfsd.read_versions(str(tmp_path))) == (8, ["3", "4", "4.1", "4.2"])
    assert len(nfsd.read_live_exports(str(tmp_path))) == 2
    assert clients.read_clients(str(tmp_path), str(tmp_path / "no")) == [LiveClient("10.99.77.2", "4.2")]


def test_addresses_by_domain(tmp_path: Path) -> None:
    content = tmp_path / "net" / "rpc" / "auth.unix.ip" / "content"
    content.parent.mkdir(parents=True)
    content.write_text(
        "#class IP domain\nnfsd 10.99.77.2 *,10.99.77.0/24,hv1\nnfsd 10.99.77.9\n# nfsd 0.0.0.0 -no-domain-\n"
    )
    assert clients.read_domains(str(tmp_path)) == {"10.99.77.2": ("*", "10.99.77.0/24", "hv1")}
    assert clients.read_domains(str(tmp_path / "nothing")) == {}
