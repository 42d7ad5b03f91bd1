# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sources and options of NFS, and the comparison with the kernel's table of mounts."""

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import CommandFailed, InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount import mountinfo
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.nfs import NFS_OPTIONS, Nfs
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.types import file_system_type
from refusal import refused

# Lines of Linux 6.1.176 (User-Mode Linux of Debian 12) with a kernel NFS server on the same host. The number of
# connections, noac and so on are in the line that a mount with these words has.
V4 = (
    "33 22 0:29 / /mnt/a rw,relatime - nfs4 localhost:/store rw,vers=4.2,rsize=65536,wsize=65536,namlen=255,hard,"
    "proto=tcp,timeo=600,retrans=2,sec=sys,clientaddr=127.0.0.1,local_lock=none,addr=127.0.0.1"
)
V3 = (
    "31 22 0:28 / /mnt/a rw,relatime - nfs localhost:/srv/store rw,vers=3,rsize=65536,wsize=65536,namlen=255,hard,"
    "proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=127.0.0.1,mountvers=3,mountport=43895,mountproto=udp,"
    "local_lock=none,addr=127.0.0.1"
)
NO_ATTRIBUTE_CACHE = "acregmin=0,acregmax=0,acdirmin=0,acdirmax=0,hard,noac"
RECORDED = [
    (["vers=4.2"], V4),
    (["vers=4"], V4),
    (["hard", "nconnect=4"], V4.replace("proto=tcp,", "proto=tcp,nconnect=4,")),
    (["vers=3"], V3),
    (["vers=3", "nolock"], V3.replace("hard,", "hard,nolock,").replace("local_lock=none", "local_lock=all")),
    (["noac"], V4.replace("rw,vers", "rw,sync,vers").replace("hard", NO_ATTRIBUTE_CACHE)),
    (["vers=3", "noac"], V3.replace("rw,vers", "rw,sync,vers").replace("hard", NO_ATTRIBUTE_CACHE)),
    (["actimeo=10"], V4.replace("hard", "acregmin=10,acregmax=10,acdirmin=10,acdirmax=10,hard")),
    (
        ["soft", "timeo=50", "retrans=1"],
        V4.replace("hard", "soft").replace("timeo=600,retrans=2", "timeo=50,retrans=1"),
    ),
    (["port=2049"], V4),
    (["vers=3", "port=2049"], V3.replace("proto=tcp,", "proto=tcp,port=2049,")),
    (
        ["lookupcache=none", "nordirplus", "nocto"],
        V4.replace("hard", "hard,nocto,nordirplus").replace("local_lock", "lookupcache=none,local_lock"),
    ),
    (["vers=3", "noacl", "noresvport"], V3.replace("hard", "hard,noacl,noresvport")),
    (["rsize=32768", "wsize=4194304"], V4.replace("rsize=65536", "rsize=32768")),
    (
        ["nosharecache", "fsc"],
        V4.replace("hard", "hard,nosharecache").replace("local_lock", "fsc,local_lock"),
    ),
    (
        ["write=eager", "softreval"],
        V4.replace("hard", "hard,softreval").replace("none,addr", "none,write=eager,addr"),
    ),
    (["vers=3", "local_lock=flock"], V3.replace("local_lock=none", "local_lock=flock")),
    (["ro", "noatime", "nosuid"], V4.replace("rw,relatime", "ro,nosuid,noatime").replace("rw,vers", "ro,vers")),
    (["sync"], V4.replace("rw,vers", "rw,sync,vers")),
    (["bg", "x-systemd.requires=a.service", "_netdev", "retry=0"], V4),
]


def live(line: str) -> dict[str, str]:
    (mount,) = mountinfo.parse(line)
    return Nfs().settings_of(mount)


def differences(words: list[str], line: str) -> set[str]:
    desired = Nfs().complete(NFS_OPTIONS.check("options", words))
    return NFS_OPTIONS.find_differences(live(line), NFS_OPTIONS.desired_settings(desired))


@pytest.mark.parametrize(
    ("words", "line"), RECORDED, ids=lambda value: ",".join(value) if isinstance(value, list) else ""
)
def test_a_mount_with_these_words_has_no_difference(words: list[str], line: str) -> None:
    assert differences(words, line) == set()


@pytest.mark.parametrize(
    ("words", "line", "expected"),
    [
        (["vers=3"], V4, {"vers"}),
        (["vers=4.1"], V4, {"vers"}),
        (["vers=4"], V3, {"vers"}),
        ([], V4.replace("hard", "soft"), {"hard"}),
        (["soft"], V4, {"hard"}),
        (["softerr"], V4.replace("hard", "soft"), {"hard"}),
        (["ro"], V4, {"access"}),
        ([], V4.replace("rw,vers", "ro,vers"), {"access"}),
        (["noatime"], V4, {"atime"}),
        (["timeo=50"], V4, {"timeo"}),
        ([], V4.replace("timeo=600", "timeo=50"), {"timeo"}),
        ([], V4.replace("retrans=2", "retrans=5"), {"retrans"}),
        (["proto=tcp6"], V4, {"proto"}),
        (["rsize=32768"], V4, {"rsize"}),
        (["sec=krb5p"], V4, {"sec"}),
        (["port=2050"], V4, {"port"}),
        (["xprtsec=tls"], V4, {"xprtsec"}),
        (["vers=3"], V3.replace("hard,", "hard,nolock,").replace("local_lock=none", "local_lock=all"), {"lock"}),
        (["vers=3", "local_lock=all"], V3, {"local_lock"}),
        ([], V4.replace("hard", "hard,nocto"), {"cto"}),
        (["nordirplus"], V4, {"rdirplus"}),
        (["noac"], V4, {"ac", "sync", "acregmin", "acregmax", "acdirmin", "acdirmax"}),
        ([], V4.replace("hard", NO_ATTRIBUTE_CACHE), {"ac", "acregmin", "acregmax", "acdirmin", "acdirmax", "sync"}),
        (["lookupcache=pos"], V4, {"lookupcache"}),
        (["sync"], V4, {"sync"}),
    ],
)
def test_each_different_option_is_seen(words: list[str], line: str, expected: set[str]) -> None:
    assert differences(words, line) == expected


def test_what_the_server_decides_is_no_difference_unless_the_user_does() -> None:
    chosen = V4.replace("4.2", "4.1").replace("65536", "4096").replace("sec=sys", "sec=krb5")
    assert differences(["vers=4"], chosen) == set()


def test_a_remount_changes_what_belongs_to_the_mount() -> None:
    for words in (["ro"], ["noatime"], ["nosuid"], ["noexec"], ["nodev"], ["nodiratime"]):
        assert differences(words, V4) <= NFS_OPTIONS.remountable
    for words in (["soft"], ["timeo=50"], ["vers=3"], ["nordirplus"], ["sync"]):
        assert not differences(words, V4) & NFS_OPTIONS.remountable


def test_a_client_in_user_space_shows_fewer_options() -> None:
    line = "40 22 0:50 / /mnt/a rw,relatime - fuse.nfs4 nfs1:/images rw,user_id=0,group_id=0,default_permissions"
    assert differences(["vers=4.2", "rsize=32768", "sec=krb5"], line) == set()


# Completion


@pytest.mark.parametrize(
    ("words", "added"),
    [
        ([], ["vers=4.2", "hard"]),
        (["vers=3"], ["hard"]),
        (["nfsvers=4.1"], ["hard"]),
        (["v3"], ["hard"]),
        (["soft"], ["vers=4.2"]),
        (["softerr", "vers=4"], []),
        (["noatime"], ["vers=4.2", "hard"]),
    ],
)
def test_what_is_left_open_is_as_virtual_disks_need_it(words: list[str], added: list[str], monkeypatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "5.2.0")
    assert list(Nfs().complete(words)) == [*words, *added]


@pytest.mark.parametrize(
    ("release", "words", "expected"),
    [
        ("5.3.0-1-amd64", [], True),
        ("6.12.0", ["nconnect=2"], False),
        ("5.2.21", [], False),
        ("10.0", [], True),
        ("odd", [], False),
    ],
)
def test_several_connections_where_the_kernel_has_them(
    release: str, words: list[str], expected: bool, monkeypatch
) -> None:
    monkeypatch.setattr("platform.release", lambda: release)
    assert ("nconnect=4" in Nfs().complete(words)) is expected


@pytest.mark.parametrize(
    ("name", "words", "value"),
    [
        ("nfs4", ["vers=3"], "vers=3"),
        ("nfs4", ["v3"], "vers=3"),
        ("nfs", ["vers=2"], "vers=2"),
        ("nfs", ["vers=5"], "vers=5"),
        ("nfs", ["nfsvers=4.3"], "vers=4.3"),
        ("nfs", ["nolock"], "nolock"),
        ("nfs", ["vers=4.1", "local_lock=flock"], "local_lock=flock"),
    ],
)
def test_versions_that_are_refused(name: str, words: list[str], value: str) -> None:
    with refused(InvalidInput, option="options", value=value):
        Nfs(name).complete(NFS_OPTIONS.check("options", words))


@pytest.mark.parametrize("words", [["lock"], ["local_lock=none"], ["vers=3", "nolock"], ["vers=3", "local_lock=posix"]])
def test_words_about_locks_that_have_a_meaning(words: list[str]) -> None:
    assert list(Nfs().complete(words))[: len(words)] == words


@pytest.mark.parametrize(
    ("words", "number"),
    [([], 0), (["soft"], 1), (["softerr"], 1), (["vers=3", "nolock"], 1), (["vers=3", "soft", "local_lock=all"], 2)],
)
def test_each_option_that_endangers_data_has_a_warning(words: list[str], number: int) -> None:
    warnings = Nfs().warnings(words)
    assert len(warnings) == number
    assert all(any(word in warning for warning in warnings) for word in words if word.startswith("soft"))


@pytest.mark.parametrize(
    "word", ["sfot", "vers", "size=1m", "addr=1.2.3.4", "clientaddr=1.2.3.4", "minorversion=1", "rw=1"]
)
def test_an_unknown_option(word: str) -> None:
    with refused(InvalidInput, option="options", value=word):
        NFS_OPTIONS.check("options", [word])


@pytest.mark.parametrize(
    "words", [["vers=3", "nfsvers=4"], ["hard,soft"], ["tcp", "udp"], ["actimeo=5", "acregmin=6"], ["noac", "async"]]
)
def test_words_that_contradict_each_other(words: list[str]) -> None:
    with refused(InvalidInput, value=",".join(words)):
        NFS_OPTIONS.check("options", words)


@pytest.mark.parametrize("words", [["tcp", "proto=tcp"], ["noac", "sync"], ["noac", "actimeo=0"], ["v3", "vers=3"]])
def test_words_with_the_same_meaning_may_come_together(words: list[str]) -> None:
    assert NFS_OPTIONS.check("options", words) == tuple(words)


def test_a_trial_starts_no_daemon_for_locks() -> None:
    """rpc.statd would keep the mount of the trial."""
    settings = NFS_OPTIONS.desired_settings(["vers=3", "hard", "local_lock=flock", "lock"])
    tried = Nfs().for_trial(settings)
    assert {setting for setting in settings if tried.get(setting) != settings[setting]} == {"lock", "local_lock"}
    assert (tried["lock"], "local_lock" in tried) == ("nolock", False)
    version_4 = NFS_OPTIONS.desired_settings(["vers=4.2", "hard"])
    assert Nfs().for_trial(version_4) == version_4


# Sources


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nas:/srv", "nas:/srv"),
        ("nas:/", "nas:/"),
        ("nas://srv//a/", "nas:/srv/a"),
        ("192.0.2.1:/a b", "192.0.2.1:/a b"),
        ("[2001:db8::1]:/srv", "[2001:db8::1]:/srv"),
        ("[fe80::1%eth0]:/srv", "[fe80::1%eth0]:/srv"),
        ("nas-1.example.com:/a:b,c#d", "nas-1.example.com:/a:b,c#d"),
    ],
)
def test_sources(source: str, expected: str) -> None:
    assert Nfs().check_source("source", source) == expected


@pytest.mark.parametrize(
    "source",
    [
        *("", "nas", "nas:", "nas:srv", "/srv", ":/srv", "nas:../srv", "nas:/a/../b", "nas:/a\nb", "nas:/a\x00"),
        *("-o:/srv", "#nas:/srv", "a b:/srv", "nas\n:/srv", "a,b:/srv", "näs:/srv", "nas.:/srv", "2001:db8::1:/srv"),
        *("[nas]:/srv", "[2001:db8::1/srv", "[]:/srv", "[2001:db8::1]", "[fe80::1%a b]:/srv", "[fe80::1%\n]:/srv"),
        *("[fe80::1%]:/srv", "[::1%#]:/x", "nas:/\udcff"),
    ],
)
def test_sources_that_are_refused(source: str) -> None:
    with refused(InvalidInput, option="source", value=source):
        Nfs().check_source("source", source)


@pytest.mark.parametrize(
    ("found", "source", "same"),
    [
        ("nas:/srv", "nas:/srv", True),
        ("nas:/srv/", "nas:/srv", True),
        ("nas://srv//", "nas:/srv", True),
        ("nas:/", "nas:/", True),
        ("nas:/srv/a", "nas:/srv", False),
        ("nas2:/srv", "nas:/srv", False),
        ("nas:/", "nas:/srv", False),
    ],
)
def test_the_kernel_keeps_slashes_of_a_source(found: str, source: str, same: bool) -> None:
    assert Nfs().is_same_source(found, source) is same


@pytest.mark.parametrize("name", ["nfs", "nfs4"])
def test_both_types_have_the_mounts_of_every_version(name: str) -> None:
    found = file_system_type("fstype", name)
    assert found.name == name
    assert all(found.matches_type(one) for one in ("nfs", "nfs4", "fuse.nfs4"))
    assert not found.matches_type("ext4")


# Reasons


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Messages of mount.nfs 2.6.2.
        ("mounting nas:/none failed, reason given by server: No such file or directory", "doesn't export /none"),
        ("access denied by server while mounting nas:/none", "doesn't export /none to this host"),
        ("Connection refused for nas:/none on /mnt/a", "no NFS server listens on nas"),
        ("Connection timed out for nas:/none on /mnt/a", "the server nas doesn't respond"),
        ("No route to host for nas:/none on /mnt/a", "no route to the server nas"),
        ("Network is unreachable for nas:/none on /mnt/a", "no route to the server nas"),
        ("Failed to resolve server nas: Name or service not known", "the name nas can't be resolved"),
        ("requested NFS version or transport protocol is not supported", "the requested version or protocol"),
        ("Protocol not supported", "the requested version or protocol"),
        (
            "Mounting nas:/none on /mnt/a did not end within 5 seconds and was stopped.",
            "the server nas doesn't respond",
        ),
    ],
)
def test_the_reason_for_a_mount_that_failed(text: str, reason: str) -> None:
    explained = Nfs().explain(CommandFailed(f"mount.nfs: {text}"), "nas:/none", "/mnt/a")
    assert explained.__class__ is CommandFailed
    assert reason in str(explained) and text in str(explained)


def test_a_name_is_no_reason() -> None:
    """The source and the path may have the words of a reason."""
    error = CommandFailed("mount.nfs: Operation not permitted for resolver:/access denied on /mnt/did not end within")
    assert Nfs().explain(error, "resolver:/access denied", "/mnt/did not end within") is error
