# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mount options: the words that a user may give, and their comparison with the words of the kernel (mount(8),
mount(2)).

Options are compared as *settings*: a mapping from the name of a setting, such as ``access``, to its word, such as
``ro``.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from ..._core.errors import InvalidInput
from ..._core.records import dataclass

#: Settings of every type of file systems with a few words each, the kernel's default first.
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

#: Settings that belong to one mount and not to its superblock, so that a remount changes them.
REMOUNTABLE = frozenset(("access", "suid", "dev", "exec", "atime", "diratime", "symlinks"))

_SETTING_OF = {word: setting for setting, words in CHOICES.items() for word in words if word}
#: Prefixes and words in fstab for systemd, cloud-init and mount -a. The kernel ignores them.
_FSTAB_ONLY = re.compile(r"[xX]-.+|_netdev|auto|noauto|comment=.+")
#: Words that change the actions of mount(8) and systemd.mount(5), in lower case.
_ACTED_ON = re.compile(r"x-mount\.|x-systemd\.|comment=systemd\.")
#: Exceptions among these words, which don't change the mounted file system.
_HARMLESS = re.compile(
    r"[xX]-mount\.mkdir(=0?[0-7]{3})?"
    r"|x-systemd\.((requires|wants)-mounts-for|requires|wants|before|after|wanted-by|required-by|mount-timeout)=[^,]+"
)
_WORD = re.compile(r'(?:[!$-+\--\[\]-~]|"[^"\\\x00-\x1f]*")+')
_ACCEPTED_OF_ACTED_ON = (
    "mount(8) or systemd would mount something else at boot than is mounted now; of their words, X-mount.mkdir and "
    "x-systemd.requires=, wants=, before=, after=, wanted-by=, required-by=, requires-mounts-for=, wants-mounts-for= "
    "and mount-timeout= are expected"
)


@dataclass(frozen=True)
class OptionRules:
    """The mount options of one type of file systems.

    :arg values: settings with a value of their own (``dax=never``), not set by default.
    :arg synonyms: short words, and the longer words of the kernel for them.
    :arg advice: sentence for users who want to mount only a part of the file system.
    """

    values: tuple[str, ...]
    synonyms: Mapping[str, str]
    advice: str

    def check(self, option: str, words: Iterable[str]) -> tuple[str, ...]:
        """Return the words in their order, without ``defaults``, repetitions and empty words. An item may hold several
        words separated by commas.

        :raises InvalidInput: a word is unknown, or two words contradict each other.
        """
        checked: list[str] = []
        chosen: dict[str, str] = {}
        for word in (word.strip() for item in words for word in split_options(item)):
            if word in ("", "defaults") or word in checked:
                continue
            setting = self._check_word(option, word)
            if setting is not None and chosen.setdefault(setting, word) != word:
                raise InvalidInput(option, f"{chosen[setting]},{word}", "only one of the two is expected")
            checked.append(word)
        return tuple(checked)

    def _check_word(self, option: str, word: str) -> str | None:
        """Return the setting of a word; ``None`` for a word for fstab alone."""
        if word == "nofail":
            raise InvalidInput(option, word, "the option nofail says whether a boot may go on without the mount")
        # systemd splits words at every comma, also at a comma in double quotes.
        if any(map(_ACTED_ON.match, re.split('[,"]', word.lower()))) and _HARMLESS.fullmatch(word) is None:
            raise InvalidInput(option, word, f"{_ACCEPTED_OF_ACTED_ON}. {self.advice}")
        setting = "boot" if word in ("auto", "noauto") else self._setting_of(word)
        if _WORD.fullmatch(word) is None or (setting is None and _FSTAB_ONLY.fullmatch(word) is None):
            raise InvalidInput(
                option,
                word,
                f"words of {', '.join(sorted(_SETTING_OF))}, {', '.join(f'{name}=...' for name in self.values)}, "
                "and for fstab x-..., _netdev, auto, noauto and comment=..., are expected",
            )
        return setting

    def desired_settings(self, words: Iterable[str]) -> dict[str, str]:
        """Return the settings of a mount made with ``words``; words for fstab alone are left out."""
        return self._settings(words, self._defaults())

    def live_settings(self, options: Sequence[str], super_options: Sequence[str]) -> dict[str, str]:
        """Return the settings of a mount by the two lists of options in proc_pid_mountinfo(5).

        A mount is read-only if the mount or its superblock is. A mount without a word for access times has strictatime.
        """
        found = self._settings([*super_options, *options], {**self._defaults(), "atime": "strictatime"})
        if "ro" in super_options:
            found["access"] = "ro"
        return found

    def _defaults(self) -> dict[str, str]:
        return {setting: _default(setting) for setting in (*CHOICES, *self.values)}

    def _settings(self, words: Iterable[str], defaults: Mapping[str, str]) -> dict[str, str]:
        found = dict(defaults)
        for word in words:
            setting = self._setting_of(word)
            if setting is not None:
                found[setting] = self.synonyms.get(word, word)
        return found

    def _setting_of(self, word: str) -> str | None:
        name, equals, value = self.synonyms.get(word, word).partition("=")
        return name if name in self.values and equals and value else _SETTING_OF.get(word)


def _default(setting: str) -> str:
    return CHOICES[setting][0] if setting in CHOICES else ""


def split_options(text: str) -> list[str]:
    """Return the words of an option string; a comma inside double quotes doesn't separate them (mount(8))."""
    return re.findall(r'(?:"[^"]*"|[^,"]|")+', text)


def find_differences(live: Mapping[str, str], desired: Mapping[str, str]) -> set[str]:
    """Return the names of the settings in which two mounts of the same type differ.

    The kernel shows the double quotes of a value only if the value has a comma.
    """
    return {setting for setting, word in desired.items() if live[setting].replace('"', "") != word.replace('"', "")}


def summarize(settings: Mapping[str, str]) -> list[str]:
    """Return words for a person: ``rw`` or ``ro``, the word for access times, and every word that isn't the kernel's
    default.
    """
    others = (
        word for setting, word in settings.items() if setting not in ("access", "atime") and word != _default(setting)
    )
    return [settings["access"], settings["atime"], *others]


def kernel_words(settings: Mapping[str, str], explicit: Collection[str] = ()) -> list[str]:
    """Return words for mount(8): every word that isn't the kernel's default, and the words of the settings named
    ``explicit``.
    """
    return [word for setting, word in settings.items() if word and (word != _default(setting) or setting in explicit)]


__all__ = ["REMOUNTABLE", "OptionRules", "find_differences", "kernel_words", "split_options", "summarize"]
