# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The words in messages for choices of the user: options for the user of a module, attributes of templates for the
user of a front-end.
"""

from __future__ import annotations

from .records import dataclass


@dataclass(frozen=True)
class Words:
    """The words for the user of a module.

    :arg safe_dirs: the list of directories that images may be made of.
    :arg raw: the option by which a file is accepted as a raw disk, whatever its content is.
    :arg unverified: the option by which a damaged image, or an image in use, is accepted.
    :arg is_unverified: the state of that option, as a part of a sentence.
    """

    safe_dirs: str = "safe_dirs"
    raw: str = "format: raw"
    unverified: str = "verify: false"
    is_unverified: str = "verify is false"


MODULE = Words()

#: FORMAT is an attribute of an image's template, and VERIFY of its datastore's (spec: onestor-datastore).
FRONT_END = Words(
    "SAFE_DIRS", "FORMAT=raw in the image's template", "VERIFY=NO in the datastore's template", "VERIFY is NO"
)

__all__ = ["FRONT_END", "MODULE", "Words"]
