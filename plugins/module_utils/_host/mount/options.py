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
from ..._core.records import dataclass, field

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

#: Settings that belong to one mount and not to its superblock, so that a remount changes them for every type.
REMOUNTABLE = frozenset(("access", "suid", "dev", "exec", "atime", "diratime", "symlinks"))

#: Prefixes and words in fstab for systemd, cloud-init and mount -a. The kernel ignores them.
_FSTAB_ONLY = re.compile(r"[xX]-.+|_netdev|auto|noauto|comment=.+")
#: Words that change the actions of mount(8) and systemd.mount(5), in lower case.
_ACTED_ON = re.compile(r"x-mount\.|x-systemd\.|comment=systemd\.")
#: Exceptions among these words, which don't change the mounted file system.
_HARMLESS = re.compile(
    r"[xX]-mount\.mkdir(=0?[0-7]{3})?"
    r"|x-systemd\.((requires|wants)-mounts-for|requires|wants|before|after|wanted-by|required-by|mount-timeout)=[^,]+"
)
#: Words that make mount(8) do something else than a plain mount.
_FOR_MOUNT = frozenset(
    """bind group loop move nouser owner private rbind remount rprivate rshared rslave runbindable shared slave
    unbindable user users""".split()
)
#: An option of a file system type whose options are not known here.
_ANY_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
#: Options with a secret as the value, in lower case. The table of mounts would show the secret to every user. The user
#: of a mount of type cifs may have a password, too.
_SECRET = re.compile(r'"?([^=]*[._-])?(pass(wd|word|phrase)?[0-9]?|secret|token|key)"?=|"?(user|username)"?=[^%]*%')
_WORD = re.compile(r'(?:[!$-+\--\[\]-~]|"[^"\\\x00-\x1f]*")+')
_ACCEPTED_OF_ACTED_ON = (
    "mount(8) or systemd would mount something else at boot than is mounted now; of their words, X-mount.mkdir and "
    "x-systemd.requires=, wants=, before=, after=, wanted-by=, required-by=, requires-mounts-for=, wants-mounts-for= "
    "and mount-timeout= are expected"
)


@dataclass(frozen=True)
class OptionRules:
    """The mount options of one type of file systems.

    :arg values: settings with a value of their own (``dax=never``), each with its default word. Settings without a
        default word aren't set by default.
    :arg synonyms: words, and the words that the kernel shows for them. A word that ends in ``=`` stands for all words
        that begin so; ``{}`` is replaced by the value.
    :arg advice: sentence for users who want to mount only a part of the file system.
    :arg choices: further settings with a few words each, the default first, as in :data:`CHOICES`.
    :arg negotiated: settings that the server decides unless the user gives a word.
    :arg hidden: settings that the kernel doesn't show, or that another mount decides.
    :arg only_fstab: words with a meaning at boot only.
    :arg remountable: settings that a remount changes.
    :arg is_open: whether other words are accepted too. They are compared only as far as the kernel shows them.
    """

    values: Mapping[str, str]
    synonyms: Mapping[str, str]
    advice: str
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    negotiated: frozenset[str] = frozenset()
    hidden: frozenset[str] = frozenset()
    only_fstab: frozenset[str] = frozenset()
    remountable: frozenset[str] = REMOUNTABLE
    is_open: bool = False

    def check(self, option: str, words: Iterable[str]) -> tuple[str, ...]:
        """Return the words in their order, without ``defaults``, repetitions and empty words. An item may hold several
        words separated by commas.

        :raises InvalidInput: a word is unknown, or two words contradict each other.
        """
        checked: list[str] = []
        chosen: dict[str, tuple[str, str]] = {}
        for word in (word.strip() for item in words for word in split_options(item)):
            if word in ("", "defaults") or word in checked:
                continue
            for setting, value in self._check_word(option, word).items():
                other, chosen_value = chosen.setdefault(setting, (word, value))
                if chosen_value != value:
                    raise InvalidInput(option, f"{other},{word}", "only one of the two is expected")
            checked.append(word)
        return tuple(checked)

    def _check_word(self, option: str, word: str) -> dict[str, str]:
        """Return the settings of a word; none for a word for fstab alone."""
        secret = _SECRET.match(word.lower())
        if secret is not None:
            raise InvalidInput(
                option,
                f"{word[: secret.end()]}...",
                "every user can read mount options; a file with the secret is expected",
            )
        if word == "nofail":
            raise InvalidInput(option, word, "the option nofail says whether a boot may go on without the mount")
        # systemd splits words at every comma, also at a comma in double quotes.
        if any(map(_ACTED_ON.match, re.split('[,"]', word.lower()))) and _HARMLESS.fullmatch(word) is None:
            raise InvalidInput(option, word, f"{_ACCEPTED_OF_ACTED_ON}. {self.advice}")
        settings = {"boot": word} if word in ("auto", "noauto") else self._settings([word], {})
        is_known = settings or word in self.only_fstab or _FSTAB_ONLY.fullmatch(word) is not None
        if _WORD.fullmatch(word) is None or not is_known:
            raise InvalidInput(option, word, self._accepted())
        return settings

    def _accepted(self) -> str:
        words = [*sorted(word for words in self._all_choices().values() for word in words if word)]
        values = [f"{name}=..." for name in self.values]
        return (
            f"words of {', '.join(words)}, {', '.join(values)}, and for fstab x-..., _netdev, auto, noauto and "
            "comment=..., are expected"
        )

    def settings_in(self, word: str) -> list[str]:
        """Return the settings that a word gives a value to."""
        return [setting for one in self._expand(word) if (setting := self._setting_of(one)) is not None]

    def desired_settings(self, words: Iterable[str]) -> dict[str, str]:
        """Return the settings of a mount made with ``words``; words for fstab alone are left out."""
        found = self._settings(words, {})
        defaults = {setting: word for setting, word in self._defaults().items() if setting not in self.negotiated}
        return {**defaults, **found}

    def live_settings(self, options: Sequence[str], super_options: Sequence[str]) -> dict[str, str]:
        """Return the settings of a mount by the two lists of options in proc_pid_mountinfo(5).

        A mount is read-only if the mount or its superblock is. A mount without a word for access times has strictatime.
        """
        found = self._settings([*super_options, *options], {**self._defaults(), "atime": "strictatime"})
        if "ro" in super_options:
            found["access"] = "ro"
        return found

    def find_differences(self, live: Mapping[str, str], desired: Mapping[str, str]) -> set[str]:
        """Return the names of the settings in which two mounts of the type differ.

        The kernel shows the double quotes of a value only if the value has a comma.
        """
        return {
            setting
            for setting, word in desired.items()
            if setting not in self.hidden
            and setting in live
            and not self.agrees(setting, live[setting].replace('"', ""), word.replace('"', ""))
        }

    def find_incomparable(self, words: Iterable[str], live: Mapping[str, str], desired: Mapping[str, str]) -> list[str]:
        """Return those of ``words`` that :meth:`find_differences` doesn't compare."""
        return [
            word
            for word in words
            for setting in self.settings_in(word)
            if setting in self.hidden or setting not in live or setting not in desired
        ]

    def agrees(self, setting: str, live: str, desired: str) -> bool:
        """Return whether a live word is what the desired word requests."""
        return live == desired

    def summarize(self, settings: Mapping[str, str]) -> list[str]:
        """Return words for a person: ``rw`` or ``ro``, the word for access times, and every word that isn't the
        default.
        """
        defaults = self._defaults()
        others = (
            word
            for setting, word in settings.items()
            if word and setting not in ("access", "atime") and word != defaults.get(setting)
        )
        return [settings["access"], settings["atime"], *others]

    def kernel_words(self, settings: Mapping[str, str], explicit: Collection[str] = ()) -> list[str]:
        """Return words for mount(8): every word that isn't the default, and the words of the settings named
        ``explicit``.
        """
        defaults = self._defaults()
        return [
            word
            for setting, word in settings.items()
            if word and (word != defaults.get(setting) or setting in explicit)
        ]

    def _all_choices(self) -> Mapping[str, tuple[str, ...]]:
        return {**CHOICES, **self.choices}

    def _defaults(self) -> dict[str, str]:
        return {**{setting: words[0] for setting, words in self._all_choices().items()}, **self.values}

    def _settings(self, words: Iterable[str], defaults: Mapping[str, str]) -> dict[str, str]:
        found = dict(defaults)
        for one in (one for word in words for one in self._expand(word)):
            setting = self._setting_of(one)
            if setting is not None:
                found[setting] = one
        return found

    def _expand(self, word: str) -> list[str]:
        name, equals, value = word.partition("=")
        pattern = self.synonyms.get(word) or (self.synonyms.get(f"{name}=") if equals and value else None)
        return split_options(pattern.replace("{}", value)) if pattern else [word]

    def _setting_of(self, word: str) -> str | None:
        name, equals, value = word.partition("=")
        for setting, words in self._all_choices().items():
            if word and word in words:
                return setting
        if name in self.values and equals and value:
            return name
        if not self.is_open or _FSTAB_ONLY.fullmatch(word) or _ANY_NAME.fullmatch(name) is None or word in _FOR_MOUNT:
            return None
        return name[2:] if name.startswith("no") else name


def split_options(text: str) -> list[str]:
    """Return the words of an option string; a comma inside double quotes doesn't separate them (mount(8))."""
    return re.findall(r'(?:"[^"]*"|[^,"]|")+', text)


__all__ = ["REMOUNTABLE", "OptionRules", "split_options"]
