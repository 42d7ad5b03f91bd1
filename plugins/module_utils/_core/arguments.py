# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The declarations of a module's options, merged from parts that several modules share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import InvalidInput
from .records import dataclass, field


@dataclass(frozen=True)
class ArgumentSpec:
    """The keyword arguments of ``AnsibleModule``, mergeable: ``ArgumentSpec(...).merge(CATALOG_OPTIONS)``.

    :arg repeated: names of lists whose elements have options of the module itself. Ansible gets no declaration of these
        elements, so that its documentation has each option once. :func:`run_module` checks these lists by the same
        declarations.
    """

    argument_spec: Mapping[str, Mapping[str, object]]
    mutually_exclusive: Sequence[Sequence[str]] = field(default_factory=list)
    required_one_of: Sequence[Sequence[str]] = field(default_factory=list)
    required_if: Sequence[Sequence[object]] = field(default_factory=list)
    repeated: Sequence[str] = field(default_factory=list)

    def merge(self, other: ArgumentSpec) -> ArgumentSpec:
        """Return both specs in one. If both declare an option, the definition in ``other`` applies."""
        return ArgumentSpec(
            {**self.argument_spec, **other.argument_spec},
            [*self.mutually_exclusive, *other.mutually_exclusive],
            [*self.required_one_of, *other.required_one_of],
            [*self.required_if, *other.required_if],
            [*self.repeated, *other.repeated],
        )

    def keywords(self) -> dict[str, object]:
        """Return the arguments to call ``AnsibleModule`` with."""
        return {
            "argument_spec": {
                name: {key: value for key, value in option.items() if not (name in self.repeated and key == "options")}
                for name, option in self.argument_spec.items()
            },
            "mutually_exclusive": [list(names) for names in self.mutually_exclusive],
            "required_one_of": [list(names) for names in self.required_one_of],
            "required_if": [list(rule) for rule in self.required_if],
        }


def refuse_truth_values(options: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], within: str = "") -> None:
    """Refuse ``true`` and ``false`` in options for whole numbers. Ansible accepts them there, and a file would then
    hold the word ``True``.

    :arg options: declares ``values``, as in :class:`ArgumentSpec`.
    :raises InvalidInput: naming the option.
    """
    for name, option in options.items():
        value = values.get(name)
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, bool) and "int" in (option["type"], option.get("elements")):
                raise InvalidInput(within + name, one, "a whole number is expected")
            if "options" in option and isinstance(one, Mapping):
                refuse_truth_values(option["options"], one, f"{within}{name}.")


__all__ = ["ArgumentSpec", "refuse_truth_values"]
