# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount options: what a user may ask of a virtiofs mount, and how that compares with what the kernel shows (mount(8),
mount(2)).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from ..._core.errors import InvalidInput

#: Settings with a few words each, the kernel's default first.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "access": ("rw", "ro"),
    "suid": ("suid", "nosuid"),
    "dev": ("dev", "nodev"),
    "exec": ("exec", "noexec"),
    "atime": ("relatime", "noatime", "strictatime"),
    "diratime": ("diratime", "nodiratime"),
    "symlinks": ("symfollow", "nosymfollow"),
    "sync": ("async", "sync"),
    "dirsync": ("", "dirsync"),
    "lazytime": ("nolazytime", "lazytime"),
}

#: Settings with a value of their own (``dax=never``); not set by default.
VALUES = ("dax", "context", "fscontext", "defcontext", "rootcontext")

#: What belongs to one mount and not to its superblock, so that a remount changes it.
REMOUNTABLE = frozenset(("access", "suid", "dev", "exec", "atime", "diratime", "symlinks"))

_DEFAULTS = {**{setting: words[0] for setting, words in CHOICES.items()}, **dict.fromkeys(VALUES, "")}
_SETTING_OF = {word: setting for setting, words in CHOICES.items() for word in words if word}
#: Read by systemd, cloud-init and mount -a in fstab; the kernel never sees them.
_FSTAB_ONLY = re.compile(r"[xX]-.+|_netdev|auto|noauto|comment=.+")
#: Words on which mount(8) and systemd.mount(5) act, in lower case.
_ACTED_ON = re.compile(r"x-mount\.|x-systemd\.|comment=systemd\.")
#: Those that don't change what is mounted.
_HARMLESS = re.compile(
    r"[xX]-mount\.mkdir(=0?[0-7]{3})?"
    r"|x-systemd\.((requires|wants)-mounts-for|requires|wants|before|after|wanted-by|required-by|mount-timeout)=[^,]+"
)
_WORD = re.compile(r'(?:[!$-+\--\[\]-~]|"[^"\\\x00-\x1f]*")+')
_ACCEPTED = (
    f"words of {', '.join(sorted(_SETTING_OF))}, {', '.join(f'{name}=...' for name in VALUES)}, "
    "and for fstab x-..., _netdev, auto, noauto and comment=..., are expected"
)
_ACCEPTED_OF_ACTED_ON = (
    "mount(8) or systemd would mount something else at boot than is mounted now; of their words, X-mount.mkdir and "
    "x-systemd.requires=, wants=, before=, after=, wanted-by=, required-by=, requires-mounts-for=, wants-mounts-for= "
    "and "
    "mount-timeout= are expected. To mount a subdirectory, export it with a tag of its own"
)


def split_options(text: str) -> list[str]:
    """The words of an option string; a comma inside double quotes doesn't part them (mount(8))."""
    return re.findall(r'(?:"[^"]*"|[^,"]|")+', text)


def check_options(option: str, words: Iterable[str]) -> tuple[str, ...]:
    """The words, without ``defaults``, repetitions and empty ones, in their order; an item may hold several words
    parted by commas.

    :raises InvalidInput: a word that isn't known, or two that contradict each other.
    """
    checked: list[str] = []
    chosen: dict[str, str] = {}
    for word in (word.strip() for item in words for word in split_options(item)):
        if word in ("", "defaults") or word in checked:
            continue
        if word == "nofail":
            raise InvalidInput(option, word, "the option nofail says whether a boot may go on without the mount")
        # systemd parts words at every comma, also at one in double quotes.
        if any(map(_ACTED_ON.match, re.split('[,"]', word.lower()))) and _HARMLESS.fullmatch(word) is None:
            raise InvalidInput(option, word, _ACCEPTED_OF_ACTED_ON)
        setting = "boot" if word in ("auto", "noauto") else _setting_of(word)
        if _WORD.fullmatch(word) is None or (setting is None and _FSTAB_ONLY.fullmatch(word) is None):
            raise InvalidInput(option, word, _ACCEPTED)
        if setting is not None and chosen.setdefault(setting, word) != word:
            raise InvalidInput(option, f"{chosen[setting]},{word}", "only one of the two is expected")
        checked.append(word)
    return tuple(checked)


def wanted_settings(words: Iterable[str]) -> dict[str, str]:
    """The settings of a mount made with ``words``: setting -> word; words for fstab alone are left out."""
    return _settings(words, _DEFAULTS)


def live_settings(options: Sequence[str], super_options: Sequence[str]) -> dict[str, str]:
    """The settings of a mount by the two lists of options in proc_pid_mountinfo(5).

    Read-only is what either the mount or its superblock is. A mount that shows no word for access times has
    strictatime.
    """
    found = _settings([*super_options, *options], {**_DEFAULTS, "atime": "strictatime"})
    if "ro" in super_options:
        found["access"] = "ro"
    return found


def differing(live: Mapping[str, str], wanted: Mapping[str, str]) -> set[str]:
    """The settings in which two mounts differ.

    The kernel shows the double quotes of a value only where there is a comma in it.
    """
    return {setting for setting in _DEFAULTS if live[setting].replace('"', "") != wanted[setting].replace('"', "")}


def described(settings: Mapping[str, str]) -> list[str]:
    """Words for a person: ``rw`` or ``ro``, how access times are kept, and all that isn't the kernel's default."""
    others = (
        word for setting, word in settings.items() if setting not in ("access", "atime") and word != _DEFAULTS[setting]
    )
    return [settings["access"], settings["atime"], *others]


def kernel_words(settings: Mapping[str, str], explicit: Iterable[str] = ()) -> list[str]:
    """Words for mount(8): all that isn't the kernel's default, and the settings named ``explicit`` in any case."""
    return [
        word for setting, word in settings.items() if word and (word != _DEFAULTS[setting] or setting in set(explicit))
    ]


def _setting_of(word: str) -> str | None:
    if word == "dax":
        return "dax"
    name, equals, value = word.partition("=")
    return name if name in VALUES and equals and value else _SETTING_OF.get(word)


def _settings(words: Iterable[str], defaults: Mapping[str, str]) -> dict[str, str]:
    found = dict(defaults)
    for word in words:
        setting = _setting_of(word)
        if setting is not None:
            found[setting] = (
                "dax=always" if word == "dax" else word
            )  # the same to the kernel, which shows the longer form
    return found


__all__ = [
    "REMOUNTABLE",
    "check_options",
    "described",
    "differing",
    "kernel_words",
    "live_settings",
    "split_options",
    "wanted_settings",
]
