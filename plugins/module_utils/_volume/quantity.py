# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Quantities of Kubernetes, such as ``10Gi`` or ``1.5e9``
(https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).
"""

from __future__ import annotations

import re
from fractions import Fraction

#: A number, and the exponent or the suffix of its unit.
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+))(?:[eE]([+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE]))?")

#: The factors of the units.
_FACTORS = {
    "": Fraction(1),
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(("n", "u", "m"), -3)},
    **{suffix: Fraction(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), 1)},
    **{suffix: Fraction(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)},
}

#: Upper bound of the characters of a quantity.
_LONGEST = 64
#: Upper bound of a quantity: numbers of Kubernetes, QEMU and libvirt have 64 bits with a sign.
HIGHEST = 2**63 - 1

#: The rest of a sentence about a value that isn't a quantity.
ACCEPTED = "a quantity such as 10Gi, 500M or 1073741824, from 0 to 2^63-1, is expected"


def read_quantity(value: object) -> int | None:
    """Return the whole number for a quantity; ``None`` for a value that isn't a quantity or is out of range.

    A fraction is rounded up, as in Kubernetes: ``500m`` is 1.

    :arg value: a text or a number. A number of YAML can be either.
    """
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        return None
    if isinstance(value, int) and not 0 <= value <= HIGHEST:  # Python prints no number of thousands of digits
        return None
    text = str(value)
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    number, exponent, suffix = match.groups()
    exact = Fraction(number.rstrip(".")) * _FACTORS[suffix or ""] * Fraction(10) ** int(exponent or "0")
    whole = -(-exact.numerator // exact.denominator)
    return whole if exact >= 0 and whole <= HIGHEST else None


def format_quantity(number: int) -> str:
    """Return a number with the largest binary unit that keeps it whole, such as ``10Gi``."""
    units = [suffix for suffix in _FACTORS if suffix.endswith("i") and number % _FACTORS[suffix] == 0]
    suffix = units[-1] if units and number else ""
    return f"{number // (_FACTORS[suffix].numerator)}{suffix}"


__all__ = ["ACCEPTED", "HIGHEST", "format_quantity", "read_quantity"]
