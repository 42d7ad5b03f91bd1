# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The options of an export, exports(5): the words that a user may give, and their comparison with the words of
exportfs(8) and of the kernel.

Options are compared as *settings*: a mapping from the name of a setting, such as ``commit``, to its word, such as
``sync``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from ..._core.errors import InvalidInput
from ..._core.records import dataclass

#: Settings with a few words each, the default of exportfs first. An empty word is a default without a word.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "commit": ("sync", "async"),
    "wdelay": ("wdelay", "no_wdelay"),
    "hide": ("hide", "nohide"),
    "crossmnt": ("nocrossmnt", "crossmnt"),
    "subtree": ("no_subtree_check", "subtree_check"),
    "port": ("secure", "insecure"),
    "locks": ("secure_locks", "insecure_locks"),
    "acl": ("acl", "no_acl"),
    "readdirplus": ("", "nordirplus"),
    "security_label": ("", "security_label"),
    "pnfs": ("no_pnfs", "pnfs"),
}

#: Settings that can differ between the security flavors of one export, the default first.
FLAVOR_CHOICES: Mapping[str, tuple[str, ...]] = {
    "access": ("ro", "rw"),
    "root": ("root_squash", "no_root_squash"),
    "all": ("no_all_squash", "all_squash"),
}

#: Settings that the kernel prints in its own table of exports.
KERNEL_SETTINGS = frozenset(CHOICES) - {"acl"} | {"anonuid", "anongid"}

#: Id of the anonymous user and group without an option.
ANONYMOUS = 65534

_IDS = 2**32
_FLAVORS = ("sys", "krb5", "krb5i", "krb5p", "none")
#: The numbers of flavors in the kernel's table (RFC 2623, RFC 5531).
_FLAVOR_NUMBERS = {"0": "none", "1": "sys", "390003": "krb5", "390004": "krb5i", "390005": "krb5p"}
_FLAVOR_SYNONYMS = {"unix": "sys", "null": "none", **_FLAVOR_NUMBERS}
_SYNONYMS = {"auth_nlm": "secure_locks", "no_auth_nlm": "insecure_locks", "mp": "mountpoint"}
_SETTING_OF = {word: setting for setting, words in {**CHOICES, **FLAVOR_CHOICES}.items() for word in words if word}
_PATH = r"/[^\s,()\"\\#:@]*"
_LOCATIONS = rf"{_PATH}@[A-Za-z0-9.-]+(\+[A-Za-z0-9.-]+)*"


def _is_id(value: str) -> bool:
    return value.isascii() and value.isdecimal() and int(value) < _IDS - 1


def _matches(pattern: str) -> Callable[[str], bool]:
    return lambda value: re.fullmatch(pattern, value) is not None


def _is_identity(value: str) -> bool:
    is_number = value.isascii() and value.isdecimal() and int(value) < _IDS and value == str(int(value))
    return value == "root" or is_number or _matches(r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")(value)


#: Options with a value: the setting, a check of the value, and the accepted values as a part of a sentence.
_VALUES: Mapping[str, tuple[str, Callable[[str], bool], str]] = {
    "anonuid": ("anonuid", _is_id, "a user id"),
    "anongid": ("anongid", _is_id, "a group id"),
    "fsid": ("fsid", _is_identity, "'root', a number below 4294967296 or a UUID with hyphens"),
    "mountpoint": ("mountpoint", _matches(_PATH), "an absolute path without blanks, ',', '(', ')', ':' and '@'"),
    "refer": ("location", _matches(f"{_LOCATIONS}(:{_LOCATIONS})*"), "/path@host[+host][:/path@host[+host]]"),
    "replicas": ("location", _matches(f"{_LOCATIONS}(:{_LOCATIONS})*"), "/path@host[+host][:/path@host[+host]]"),
    "xprtsec": ("xprtsec", _matches("(none|tls|mtls)(:(none|tls|mtls))*"), "none, tls and mtls, separated by ':'"),
    "reexport": (
        "reexport",
        _matches("none|auto-fsidnum|predefined-fsidnum"),
        "none, auto-fsidnum or predefined-fsidnum",
    ),
}
_VALUE_SETTINGS = tuple(dict.fromkeys(setting for setting, _check, _accepted in _VALUES.values()))
_DEFAULTS: Mapping[str, str] = {
    **{setting: words[0] for setting, words in CHOICES.items()},
    **dict.fromkeys(_VALUE_SETTINGS, ""),
    "anonuid": f"anonuid={ANONYMOUS}",
    "anongid": f"anongid={ANONYMOUS}",
}
_FLAVOR_DEFAULTS: Mapping[str, str] = {setting: words[0] for setting, words in FLAVOR_CHOICES.items()}


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export to one client, with all defaults.

    :arg settings: the word of each setting; ``""`` for an option without a word for its default.
    :arg flavors: the settings of each security flavor, the preferred one first.
    :arg unknown: words that this collection doesn't know.
    """

    settings: Mapping[str, str]
    flavors: Mapping[str, Mapping[str, str]]
    unknown: tuple[str, ...] = ()

    def equals(self, other: ExportOptions, names: Iterable[str] = tuple(_DEFAULTS)) -> bool:
        """Return whether the named settings and the flavors are the same."""
        same = all(self.settings[name] == other.settings[name] for name in names)
        return same and list(self.flavors.items()) == list(other.flavors.items())

    def has(self, word: str) -> bool:
        """Return whether a word is in effect, for a setting of flavors for at least one of them."""
        setting = _SETTING_OF[word]
        return word in (self.settings.get(setting), *(one.get(setting) for one in self.flavors.values()))

    def summarize(self) -> list[str]:
        """Return the shortest words for a file or a person: access, commit, squash, and everything that isn't a
        default.
        """
        others = [word for setting, word in self.settings.items() if word != _DEFAULTS[setting]]
        groups = self._groups()
        if len(groups) > 1:
            return [self.settings["commit"], *(word for word in others if word != "async"), *_group_words(groups)]
        ((flavors, words),) = groups
        squash = [words["root"]] if words["all"] == "no_all_squash" else [words["root"], words["all"]]
        security = [] if flavors == ["sys"] else [f"sec={':'.join(flavors)}"]
        return [
            words["access"],
            self.settings["commit"],
            *squash,
            *(word for word in others if word != "async"),
            *security,
            *self.unknown,
        ]

    def effective(self) -> list[str]:
        """Return all words, those of defaults included."""
        return [*(word for word in self.settings.values() if word), *_group_words(self._groups()), *self.unknown]

    def _groups(self) -> list[tuple[list[str], Mapping[str, str]]]:
        """Return flavors that follow each other and have the same settings."""
        groups: list[tuple[list[str], Mapping[str, str]]] = []
        for flavor, words in self.flavors.items():
            if groups and groups[-1][1] == words:
                groups[-1][0].append(flavor)
            else:
                groups.append(([flavor], words))
        return groups


def _group_words(groups: Iterable[tuple[list[str], Mapping[str, str]]]) -> list[str]:
    return [word for flavors, words in groups for word in (f"sec={':'.join(flavors)}", *words.values())]


def read_options(words: Iterable[str]) -> ExportOptions:
    """Return the options in words of a file, of exportfs or of the kernel. As for exportfs, the last word counts."""
    settings = dict(_DEFAULTS)
    words_of_flavor = dict(_FLAVOR_DEFAULTS)
    flavors: dict[str, dict[str, str]] = {}
    active: list[str] = []
    unknown = []
    for word in words:
        word = _normalize(word)
        name, equals, value = word.partition("=")
        if name == "sec" and equals:
            active = [_FLAVOR_SYNONYMS.get(one, one) for one in value.split(":")]
            for flavor in active:
                flavors.setdefault(flavor, dict(words_of_flavor))
        elif word in _SETTING_OF and _SETTING_OF[word] in FLAVOR_CHOICES:
            for affected in (words_of_flavor, *(flavors[flavor] for flavor in active)):
                affected[_SETTING_OF[word]] = word
        elif (setting := _setting_of(word)) is not None:
            settings[setting] = word
        elif name != "uuid":  # the kernel prints what exportfs found out about the file system
            unknown.append(word)
    return ExportOptions(settings, flavors or {"sys": words_of_flavor}, tuple(unknown))


def _setting_of(word: str) -> str | None:
    name, equals, _value = word.partition("=")
    if equals:
        return _VALUES[name][0] if name in _VALUES else None
    return "mountpoint" if word == "mountpoint" else _SETTING_OF.get(word)


def _normalize(word: str) -> str:
    """Return the word by which exportfs prints an option, with values in one notation."""
    name, equals, value = word.partition("=")
    name = _SYNONYMS.get(name, name)
    if name in ("anonuid", "anongid") and re.fullmatch("-?[0-9]{1,10}", value):
        value = str(int(value) % _IDS)
    elif name == "fsid":
        value = _normalize_identity(value)
    elif name == "mountpoint" and not value:
        equals = ""
    return name + equals + value


def _normalize_identity(value: str) -> str:
    digits = re.sub("[^0-9A-Fa-f]", "", value).lower()
    if value == "root":
        return "0"
    if re.fullmatch("-?[0-9]{1,10}", value):
        return str(int(value, 8 if value.startswith("0") and not re.search("[89]", value) else 10) % _IDS)
    if re.fullmatch("0[xX][0-9A-Fa-f]{1,8}", value):
        return str(int(value, 16))
    if len(digits) == 32:
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
    return value


def check_options(option: str, items: Iterable[str]) -> ExportOptions:
    """Return the options that a user gives. An item may hold several words separated by commas.

    :raises InvalidInput: a word is unknown, or two words contradict each other.
    """
    words = [word for item in items for word in (one.strip() for one in item.split(",")) if word]
    chosen: dict[object, str] = {}
    group = 0
    for word in words:
        setting = _check_word(option, word)
        if setting == "sec":
            group += 1
            for flavor in word[len("sec=") :].split(":"):
                _require_one(option, chosen, ("sec", flavor), word, group)
        else:
            where = (setting, group) if setting in FLAVOR_CHOICES else (setting, 0)
            _require_one(option, chosen, where, word)
    return read_options(words)


def _require_one(option: str, chosen: dict[object, str], where: object, word: str, group: int = 0) -> None:
    """Refuse two words for one setting, or a flavor in two groups."""
    marked = _normalize(word) + f" {group}" * bool(group)
    other = chosen.setdefault(where, marked)
    if other != marked:
        raise InvalidInput(option, f"{other.split(' ')[0]},{word}", "only one of the two is expected")


def _check_word(option: str, word: str) -> str:
    """Return the setting of a word.

    :raises InvalidInput: the word is unknown, or its value isn't accepted.
    """
    name, equals, value = word.partition("=")
    name = _SYNONYMS.get(name, name)
    if name == "sec" and equals:
        flavors = value.split(":")
        if not all(flavor in _FLAVORS for flavor in flavors) or len(set(flavors)) < len(flavors):
            raise InvalidInput(option, word, f"different ones of {', '.join(_FLAVORS)}, separated by ':', are expected")
        return "sec"
    if equals and name in _VALUES:
        setting, is_accepted, accepted = _VALUES[name]
        if not is_accepted(value):
            raise InvalidInput(option, word, f"{accepted} is expected")
        return setting
    setting_of_word = _setting_of(_normalize(word))
    if equals or setting_of_word is None:
        raise InvalidInput(option, word, f"{_accepted_words()} are expected (exports(5))")
    return setting_of_word


def _accepted_words() -> str:
    plain = sorted({*_SETTING_OF, *_SYNONYMS, "mountpoint"})
    return ", ".join([*plain, *(f"{name}=..." for name in ("sec", *_VALUES))])


__all__ = [
    "ANONYMOUS",
    "KERNEL_SETTINGS",
    "ExportOptions",
    "check_options",
    "read_options",
]
