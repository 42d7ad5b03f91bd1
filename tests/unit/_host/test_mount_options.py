# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
from __future__ import annotations

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidInput
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.options import (
    OptionRules,
    split_options,
)
from ansible_collections.granary.vmstore.plugins.module_utils._host.mount.virtiofs import VIRTIOFS_OPTIONS as RULES
from refusal import refused


def live(options: str, super_options: str = "rw") -> dict[str, str]:
    return RULES.live_settings(options.split(","), super_options.split(","))


def test_a_comma_in_quotes_does_not_part_words():
    assert split_options('ro,context="u:r:t:s0:c1,c2",noatime') == ["ro", 'context="u:r:t:s0:c1,c2"', "noatime"]
    assert split_options('a"b,c') == ['a"b', "c"]


def test_check_drops_defaults_and_repetitions_and_keeps_the_order():
    assert RULES.check("options", ["noatime,ro", "", "defaults", "ro", " x-systemd.requires=a.mount "]) == (
        "noatime",
        "ro",
        "x-systemd.requires=a.mount",
    )


@pytest.mark.parametrize(
    "word",
    [
        *[
            "user",
            "nofail",
            "x-systemd.automount",
            "x-",
            "dax=",
            "remount",
            "bind",
            "size=1m",
            "ro noatime",
            "x-a\nb",
            "x-a\\b",
        ],
        *[
            "X-mount.subdir=../..",
            "X-mount.subdir=data",
            "X-mount.owner=root",
            "X-mount.mode=0777",
            "X-mount.idmap=u:0:1000:1",
            "x-mount.subdir=x",
        ],
        *[
            "X-mount.mkdir=rwx",
            "X-mount.nocanonicalize",
            "x-systemd.automount=1",
            "X-systemd.automount",
            "x-systemd.idle-timeout=1",
            "x-systemd.makefs",
        ],
        *[
            "x-systemd.growfs",
            "comment=systemd.automount",
            'x-a="b,x-systemd.automount,c"',
            'x-systemd.before="a,x-systemd.makefs,b"',
        ],
        *[
            "users",
            "owner",
            "group",
            "helper=x",
            "uhelper=x",
            "loop",
            "move",
            "rbind",
            "subtype=x",
            "fd=3",
            "rootmode=0",
            "allow_other",
        ],
        *['context="a', 'x-"\n"', "x-#", "comment=", "rö"],
    ],
)
def test_other_words_are_refused_by_name(word):
    with refused(InvalidInput, option="options", value=word):
        RULES.check("options", [word])


@pytest.mark.parametrize(
    "word",
    [
        *[
            "X-mount.mkdir",
            "x-mount.mkdir=0750",
            "x-systemd.after=a.service",
            "x-systemd.requires-mounts-for=/srv",
            "x-systemd.mount-timeout=5",
        ],
        *["_netdev", "noauto", "comment=cloudconfig", "x-gvfs-hide", "x-initrd.mount", 'context="u:r:t:s0:c1,c2"'],
    ],
)
def test_words_for_fstab_that_leave_the_mount_as_it_is(word):
    assert RULES.check("options", [word]) == (word,)


@pytest.mark.parametrize("words", [["ro", "rw"], ["noatime,relatime"], ["dax=never", "dax=always"], ["auto,noauto"]])
def test_words_that_contradict_each_other_are_refused(words):
    with refused(InvalidInput, says="options: * is not accepted: only one of the two is expected."):
        RULES.check("options", words)


# Options in mountinfo of Linux 6.12, for virtiofs mounts with the words on the right.
@pytest.mark.parametrize(
    ("options", "super_options", "words"),
    [
        ("rw,relatime", "rw", []),
        ("rw,relatime", "rw", ["rw", "suid", "symfollow", "async", "nolazytime", "_netdev", "x-a=b"]),
        ("ro,noatime", "rw", ["ro", "noatime"]),
        ("rw,nosuid,nodiratime,nosymfollow", "rw", ["nosuid", "nodiratime", "nosymfollow", "strictatime"]),
        ("ro,relatime", "ro,sync,dirsync,lazytime,dax=never", ["ro", "sync", "dirsync", "lazytime", "dax=never"]),
        ("rw,relatime", "rw,seclabel,dax=always", ["dax"]),
        ("rw,relatime", "rw,context=u:r:t:s0", ['context="u:r:t:s0"']),
    ],
)
def test_live_and_desired_agree(options, super_options, words):
    assert RULES.find_differences(live(options, super_options), RULES.desired_settings(words)) == set()


@pytest.mark.parametrize(
    ("options", "super_options", "words", "expected"),
    [
        ("rw,relatime", "ro", [], {"access"}),
        ("rw,relatime", "rw", ["ro"], {"access"}),
        ("rw,relatime", "rw", ["strictatime"], {"atime"}),
        ("rw", "rw", [], {"atime"}),
        ("rw,relatime,noexec", "rw,sync", ["nodev"], {"exec", "sync", "dev"}),
        ("rw,relatime", "rw,dax=never", ["dax=always"], {"dax"}),
    ],
)
def test_live_and_desired_differ(options, super_options, words, expected):
    assert RULES.find_differences(live(options, super_options), RULES.desired_settings(words)) == expected


def test_words_for_mount_name_what_is_not_the_default_and_what_changes():
    desired = RULES.desired_settings(["ro", "dax", "x-a"])
    assert RULES.kernel_words(desired) == ["ro", "dax=always"]
    assert RULES.kernel_words(desired, ["atime", "exec", "dirsync"]) == [
        "ro",
        "exec",
        "relatime",
        "dax=always",
    ]


def test_words_for_a_person():
    assert RULES.summarize(RULES.desired_settings(["noexec", "ro"])) == [
        "ro",
        "relatime",
        "noexec",
    ]


OPEN = OptionRules(values={}, synonyms={}, advice="Take another type", is_open=True)


@pytest.mark.parametrize("rules", [RULES, OPEN], ids=["known", "open"])
@pytest.mark.parametrize(
    "name",
    [
        *("pass", "passwd", "password", "password2", "Password", "PASS", "secret", "key", "token", "passphrase"),
        *('"password"', "s3-secret", "api_key", "auth.token"),
    ],
)
def test_a_secret_is_refused_and_not_shown(rules, name):
    for words in ([f"{name}=Geheim"], ["ro", f"{name}=Geheim,mehr"], [f'{name}="Geheim,mehr"'], [f" {name}=Geheim "]):
        with refused(InvalidInput, option="options") as refusal:
            rules.check("options", words)
        assert "Geheim" not in str(refusal.value) and "Geheim" not in str(refusal.value.value)


@pytest.mark.parametrize("word", ["user=one%Geheim", "username=DOMAIN/one%Geheim", "USER=one%Geheim"])
def test_a_password_after_a_user_is_a_secret(word):
    with refused(InvalidInput, option="options") as refusal:
        OPEN.check("options", [word])
    assert "Geheim" not in str(refusal.value) and "Geheim" not in str(refusal.value.value)


@pytest.mark.parametrize(
    "word",
    [
        *("credentials=/etc/one", "secretfile=/etc/one", "passwd_file=/etc/one", "user=one", "keyring=/etc/one"),
        *("sec=krb5", "uid=1", "bypass", "keyfile=/etc/one", "name=key", "sec=secret=x"),
    ],
)
def test_words_that_only_look_like_a_secret(word):
    assert OPEN.check("options", [word]) == (word,)
