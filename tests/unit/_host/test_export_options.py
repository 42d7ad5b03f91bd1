# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._host.nfs.export_options import (
    check_options,
    read_options,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from refusal import refused

#: The words of ``exportfs -s`` for an export without options (nfs-utils 2.8.3).
DEFAULTS = "sync,wdelay,hide,no_subtree_check,sec=sys,ro,secure,root_squash,no_all_squash"


@pytest.mark.parametrize(
    ("given_words", "printed"),
    [
        ("", DEFAULTS),
        ("root_squash,ro,sync,no_subtree_check,secure,wdelay,hide,sec=sys", DEFAULTS),
        ("rw,sync", DEFAULTS.replace("ro,", "rw,")),
        ("no_root_squash,rw", DEFAULTS.replace("ro,", "rw,").replace("root_squash", "no_root_squash")),
        ("anonuid=65534,anongid=65534,auth_nlm,nocrossmnt,acl,no_pnfs", DEFAULTS),
        ("async", DEFAULTS.replace("sync", "async")),
        ("fsid=root,mp", DEFAULTS.replace("sec=", "fsid=0,mountpoint,sec=")),
        ("fsid=7", DEFAULTS.replace("sec=", "fsid=7,sec=")),
        (
            "fsid=E7A2C4E0-1111-2222-3333-444455556666",
            DEFAULTS.replace("sec=", "fsid=e7a2c4e0-1111-2222-3333-444455556666,sec="),
        ),
        ("fsid=4294967295,anonuid=4294967294", DEFAULTS.replace("sec=", "fsid=-1,anonuid=-2,sec=")),
        ("no_auth_nlm", DEFAULTS.replace("sec=", "insecure_locks,sec=")),
        (
            "mp=/srv,replicas=/x@h1,sec=krb5:krb5i,xprtsec=tls:mtls,no_wdelay,rw",
            "sync,no_wdelay,hide,no_subtree_check,mountpoint=/srv,replicas=/x@h1,sec=krb5:krb5i,rw,secure,root_squash,"
            "no_all_squash,xprtsec=tls:mtls",
        ),
        (
            "rw,nohide,crossmnt,subtree_check,nordirplus,security_label,no_acl,pnfs,refer=/x@h1+h2:/y@h3,"
            "sec=sys:krb5,ro,sec=krb5p,rw,no_root_squash",
            "sync,wdelay,nohide,crossmnt,nordirplus,security_label,no_acl,pnfs,refer=/x@h1+h2:/y@h3,"
            "sec=sys:krb5,ro,secure,root_squash,no_all_squash,sec=krb5p,rw,secure,no_root_squash,no_all_squash",
        ),
    ],
)
def test_options_equal_what_exportfs_prints(given_words: str, printed: str) -> None:
    desired = check_options("options", [given_words])
    # exportfs prints no_subtree_check only.
    printed = printed if "no_subtree_check" in printed else f"subtree_check,{printed}"
    assert desired == read_options(printed.split(","))
    assert check_options("options", desired.summarize()) == desired
    assert read_options(desired.effective()) == desired


@pytest.mark.parametrize(
    ("words", "summary"),
    [
        ("", "ro,sync,root_squash"),
        ("secure,rw,sync,all_squash,anonuid=9", "rw,sync,root_squash,all_squash,anonuid=9"),
        ("insecure,async,no_subtree_check", "ro,async,root_squash,insecure"),
        ("sec=krb5:sys,rw", "rw,sync,root_squash,sec=krb5:sys"),
        (
            "sec=krb5,rw,sec=sys,ro,all_squash,insecure",
            "sync,insecure,sec=krb5,rw,root_squash,no_all_squash,sec=sys,ro,root_squash,all_squash",
        ),
    ],
)
def test_summary_has_access_commit_squash_and_no_other_default(words: str, summary: str) -> None:
    assert check_options("options", words.split(",")).summarize() == summary.split(",")


def test_as_for_exportfs_the_last_word_counts() -> None:
    assert read_options(["rw", "ro", "fsid=1", "fsid=2", "anonuid=1", "anonuid=-2"]).summarize() == (
        "ro,sync,root_squash,anonuid=4294967294,fsid=2".split(",")
    )


def test_words_of_newer_versions_are_kept() -> None:
    found = read_options(["rw", "brand_new", "shiny=1", "uuid=173c584c:3a174864"])
    assert found.unknown == ("brand_new", "shiny=1")
    assert found.summarize()[-2:] == found.effective()[-2:] == ["brand_new", "shiny=1"]
    assert found.equals(read_options(["rw"]))


@pytest.mark.parametrize(
    ("items", "value"),
    [
        (["bogus"], "bogus"),
        (["rw, SYNC"], "SYNC"),
        (["defaults"], "defaults"),
        (["rw,ro"], "rw,ro"),
        (["rw", "ro"], "rw,ro"),
        (["auth_nlm", "insecure_locks"], "secure_locks,insecure_locks"),
        (["refer=/a@b", "replicas=/a@b"], "refer=/a@b,replicas=/a@b"),
        (["sec=sys,rw,ro"], "rw,ro"),
        (["sec=sys,rw,sec=krb5:sys,ro"], "sec=sys,sec=krb5:sys"),
        (["sec=sys:sys"], "sec=sys:sys"),
        (["sec=sys:foo"], "sec=sys:foo"),
        (["sec="], "sec="),
        (["sec"], "sec"),
        (["anonuid"], "anonuid"),
        (["anonuid=-1"], "anonuid=-1"),
        (["anonuid=4294967295"], "anonuid=4294967295"),
        (["anongid=users"], "anongid=users"),
        (["anongid=²"], "anongid=²"),
        (["fsid="], "fsid="),
        (["fsid=010"], "fsid=010"),
        (["fsid=4294967296"], "fsid=4294967296"),
        # exportfs takes a UUID of digits only for a number.
        (["fsid=12345678901234567890123456789012"], "fsid=12345678901234567890123456789012"),
        (["fsid=1", "fsid=2"], "fsid=1,fsid=2"),
        (["mp=srv"], "mp=srv"),
        (["mp=/srv x"], "mp=/srv x"),
        (["mp=/a)x(rw"], "mp=/a)x(rw"),
        (["mp=/a#"], "mp=/a#"),
        (["mp=/a\n/b"], "mp=/a\n/b"),
        (["mp=/a\\040"], "mp=/a\\040"),
        (['mp="/a"'], 'mp="/a"'),
        (["refer=junk"], "refer=junk"),
        (["xprtsec=ssl"], "xprtsec=ssl"),
        (["reexport=yes"], "reexport=yes"),
        (["rw=1"], "rw=1"),
        (["rw)\n/etc *(rw"], "rw)\n/etc *(rw"),
        (["squash_uids=0-15"], "squash_uids=0-15"),
    ],
)
def test_bad_options_are_refused(items: list[str], value: str) -> None:
    with pytest.raises(InvalidInput) as error:
        check_options("clients.options", items)
    assert (error.value.option, error.value.value) == ("clients.options", value)


def test_a_repeated_word_is_no_contradiction() -> None:
    assert check_options("options", ["rw,rw", " sync", "", "fsid=0,fsid=root"]).summarize() == (
        "rw,sync,root_squash,fsid=0".split(",")
    )


def test_messages() -> None:
    with refused(
        InvalidInput,
        says="options: 'rwx' is not accepted: acl, all_squash, async, auth_nlm, crossmnt, hide, insecure, "
        "insecure_locks, mountpoint, mp, no_acl, no_all_squash, no_auth_nlm, no_pnfs, no_root_squash, "
        "no_subtree_check, no_wdelay, nocrossmnt, nohide, nordirplus, pnfs, ro, root_squash, rw, secure, secure_locks, "
        "security_label, subtree_check, sync, wdelay, sec=..., anonuid=..., anongid=..., fsid=..., mountpoint=..., "
        "refer=..., replicas=..., xprtsec=..., reexport=... are expected (exports(5)).",
    ):
        check_options("options", ["rwx"])


WORDS = st.sampled_from(
    "ro rw sync async wdelay no_wdelay hide nohide nocrossmnt crossmnt subtree_check no_subtree_check secure insecure "
    "secure_locks no_auth_nlm acl no_acl nordirplus security_label pnfs root_squash no_root_squash all_squash "
    "no_all_squash anonuid=9 anongid=0 fsid=3 mp mp=/srv refer=/a@b sec=sys sec=krb5:krb5i xprtsec=tls".split()
)


@settings(deadline=None, database=None)
@given(st.lists(WORDS))
def test_a_summary_has_the_meaning_of_the_words(words: list[str]) -> None:
    found = read_options(words)
    assert read_options(found.summarize()) == found
    assert read_options(found.effective()) == found
