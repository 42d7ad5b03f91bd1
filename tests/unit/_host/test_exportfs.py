# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files of exports are read as the real exportfs(8) reads them, and its table is read back."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, DependencyMissing
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs import exportfs
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs.export_options import read_options
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs.exports_file import Export, ExportedTo, parse
from nfs_host import NfsHost
from refusal import refused


def read_as_exportfs(host: NfsHost, text: str) -> set[tuple[str, str, str]]:
    host.exports.write_text(text)
    exportfs.load_files()
    return {(one.path, one.client, ",".join(one.options.summarize())) for one in exportfs.read_table()}


def read_here(text: str) -> set[tuple[str, str, str]]:
    return {
        (one.path, to.client, ",".join(read_options(to.words).summarize())) for one in parse(text) for to in one.clients
    }


@pytest.mark.parametrize(
    "text",
    [
        "/srv *(rw)\n/usr//share/ 192.0.2.0/24(ro)\n",
        "# a\n\n  /srv\t*(rw,sync)  192.0.2.0/255.255.255.0(async,no_root_squash) # b\n",
        "/srv -rw,insecure_locks *() @group(ro) *.example.org(no_root_squash)",
        '"/usr/with blank" *(rw)\n/usr/a\\040b\\134c *(rw)\n/usr/q\\042 *(rw)\n',
        "/usr/caf\\303\\251 *(rw)\n/usr/é *(ro)\n",
        "/srv \\\n  *(rw) \\\n 2001:db8::/64(ro)\n/usr *(rw)",
        "/srv *(rw)\r\n/usr *(rw)\r\n",
        "/usr/a#b *(rw) #c\n",
        "# \\\n/srv *(rw)\n",
        "/srv (rw)\n",
        "/srv\n",
        '/"usr/a b"/c "*"(rw)\n',
        "/usr/\\134040 *(rw)\n",
        "/srv *(rw,anonuid=9,fsid=0x10,sec=sys:krb5,ro,sec=krb5p,rw,all_squash,mp=/usr,no_acl)\n",
        "/srv *(rw,fsid=E7A2C4E0-1111-2222-3333-444455556666,refer=/x@h1+h2:/y@h3,nohide,crossmnt,pnfs)\n",
    ],
)
def test_files_are_read_alike(text: str, nfs_host: NfsHost) -> None:
    found = read_as_exportfs(nfs_host, text)
    assert found
    assert read_here(text) == found


@pytest.mark.parametrize("path", ["/usr/a b", "/usr/q\"'", "/usr/é", "/usr/#a", "/usr/(a)", "/usr/-a", "/usr/a\u2028b"])
def test_exportfs_reads_the_path_that_was_written(path: str, nfs_host: NfsHost) -> None:
    text = f"{Export(path, (ExportedTo('*', ('rw',)),))}\n"
    assert read_as_exportfs(nfs_host, text) == {(path, "*", "rw,sync,root_squash")}
    assert f"{path} <world>(sync," in " ".join(nfs_host.table())


def test_complaints_have_no_control_characters(nfs_host: NfsHost) -> None:
    nfs_host.exports.write_text("/usr/\\033[31m *(rw)\n/srv nosuchhost.invalid(rw)\n")
    code, complaints = exportfs.load_files()
    assert code == 1
    assert [one for one in complaints if "?[31m" in one and "\x1b" not in one]
    assert "Failed to resolve nosuchhost.invalid" in complaints


@pytest.mark.parametrize(
    "client", ["*", "192.0.2.7", "192.0.2.0/24", "2001:db8::5", "2001:db8::/64", "@group", "*.example.org", "[ab]c.org"]
)
def test_an_entry_is_removed_from_the_table_alone(client: str, nfs_host: NfsHost) -> None:
    nfs_host.exports.write_text(f"/srv {client}(rw) localhost(ro)\n")
    exportfs.load_files()
    (entry,) = (one for one in exportfs.read_table() if one.client == client)
    exportfs.unexport(entry)
    assert [line.split("(")[0] for line in nfs_host.table()] == ["/srv localhost"]


def test_exports_of_other_programs_stay(nfs_host: NfsHost) -> None:
    nfs_host.exportfs("-o", "rw", "192.0.2.7:/usr")
    nfs_host.exports.write_text("/srv *(rw)\n")
    assert exportfs.load_files()[0] == 0
    assert [line.split("(")[0] for line in nfs_host.table()] == ["/usr 192.0.2.7", "/srv <world>"]


def test_without_exportfs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with refused(DependencyMissing, names=["'exportfs'", "package nfs-kernel-server"]):
        exportfs.read_table()


def test_a_failure_of_exportfs(nfs_host: NfsHost) -> None:
    (nfs_host.bin / "exportfs").write_text("#!/bin/sh\necho no >&2; exit 3\n")
    for call in (exportfs.read_table, exportfs.flush):
        with pytest.raises(CommandFailed):
            call()
