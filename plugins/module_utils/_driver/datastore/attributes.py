# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The attributes of a datastore that its driver reads (spec: onestor-datastore, "Create Image Datastore" and
"Additional Configuration").

Names are in lower case. Values are text, in the form that a front-end or the catalog stores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ..._core.errors import InvalidInput
from ..._core.records import TYPE_CHECKING, replace
from .base import OPTION, CopyOptions, Settings

if TYPE_CHECKING:
    from typing import Any

#: Attributes with the value ``yes`` or ``no`` that control how images are made, each with its default.
FLAGS = {"convert": True, "no_decompress": False, "sparse": True, "verify": True}

#: Formats that images can be converted to.
DRIVERS = ("raw", "qcow2")


def copy_options(
    attributes: Mapping[str, str],
    image_type: str,
    *,
    checksums: Mapping[str, str],
    called: Callable[[str], str] = OPTION,
) -> CopyOptions:
    """Return the options for a new image.

    :arg called: returns the name of an attribute for errors.
    :raises InvalidInput: a value that isn't accepted.
    """
    driver = attributes.get("driver", "").strip()
    if driver not in ("", *DRIVERS):
        raise InvalidInput(called("driver"), driver, "raw or qcow2 is expected")
    flags: dict[str, Any] = {name: flag(attributes, name) for name in FLAGS}
    return CopyOptions(
        image_type=image_type,
        driver_format=driver or None,
        bandwidth=_bandwidth(called("limit_transfer_bw"), attributes.get("limit_transfer_bw", "")),
        checksums=checksums,
        **flags,
    )


def flag(attributes: Mapping[str, str], name: str) -> bool:
    """Return the value of an attribute of :data:`FLAGS`. Anything but yes and no stands for the default, because the
    original drivers read it so.
    """
    return {"yes": True, "no": False}.get(attributes.get(name, "").strip().lower(), FLAGS[name])


def _bandwidth(attribute: str, text: str) -> int | None:
    """Return the upper bound in bytes a second: a number, perhaps with K, M or G for a power of 1024. Return ``None``
    for an empty text.
    """
    text = text.strip()
    if not text:
        return None
    number, unit = (text[:-1], text[-1].upper()) if text[-1].upper() in "KMG" else (text, "")
    if not (number.isascii() and number.isdigit() and 0 < int(number) < 10**12):
        raise InvalidInput(
            attribute, text, "a number of bytes a second is expected, perhaps with K, M or G, such as 50M"
        )
    return int(number) << {"": 0, "K": 10, "M": 20, "G": 30}[unit]


def settings_of(attributes: Mapping[str, str]) -> Settings:
    """Return the settings in the attributes of one datastore. They have the names of the settings for all datastores of
    a front-end.
    """
    options = {name[len("fs_opts_") :]: value for name, value in attributes.items() if name.startswith("fs_opts_")}
    settings = Settings(fs_options=options, qcow2_options=attributes.get("qcow2_options", ""))
    if "supported_fs" not in attributes:
        return settings
    return replace(settings, supported_fs=tuple(attributes["supported_fs"].replace(",", " ").split()))


def check_values(attributes: Mapping[str, str]) -> None:
    """Refuse invalid values, also those that :func:`copy_options` replaces by the default.

    :raises InvalidInput: naming the attribute.
    """
    copy_options(attributes, "", checksums={})
    for name in FLAGS:
        if attributes.get(name, "no").lower() not in ("yes", "no"):
            raise InvalidInput(OPTION(name), attributes[name], "yes or no is expected")
    _check_settings(settings_of(attributes))
    _check_nfs_auto(attributes)


def _check_nfs_auto(attributes: Mapping[str, str]) -> None:
    if attributes.get("nfs_auto_enable", "no").lower() not in ("yes", "no"):
        raise InvalidInput(OPTION("nfs_auto_enable"), attributes["nfs_auto_enable"], "yes or no is expected")
    if attributes.get("nfs_auto_enable", "no").lower() == "yes":
        from .shared_store import read_nfs_auto

        read_nfs_auto(attributes, OPTION)


def _check_settings(settings: Settings) -> None:
    import re
    import shlex

    from ..._image.copy import creation_options

    for fs in filter(None, settings.supported_fs):
        if re.fullmatch("[A-Za-z0-9][A-Za-z0-9_.-]*", fs) is None:
            raise InvalidInput(OPTION("supported_fs"), fs, "names of file systems are expected, such as ext4 or xfs")
    for fs, options in settings.fs_options.items():
        try:
            shlex.split(options)
        except ValueError as error:
            raise InvalidInput(
                OPTION(f"fs_opts_{fs}"), options, f"arguments of mkfs.{fs} are expected, quoted as in a shell"
            ) from error
    try:
        creation_options(settings.qcow2_options)
    except InvalidInput as error:
        raise InvalidInput(OPTION("qcow2_options"), settings.qcow2_options, error.accepted) from error


def try_values(attributes: Mapping[str, str]) -> None:
    """Refuse values that :func:`check_values` accepts but the commands of this host don't.

    :raises InvalidInput: naming the attribute.
    """
    from ..._image.datablock import is_known
    from ..._image.trial import try_fs_options, try_qcow2_options

    settings = settings_of(attributes)
    if "supported_fs" in attributes:
        for fs in filter(None, settings.supported_fs):
            if not is_known(fs):
                accepted = (
                    f"names of file systems are expected, such as ext4 or xfs, and this host has no command mkfs.{fs}"
                )
                raise InvalidInput(OPTION("supported_fs"), fs, accepted)
    try_qcow2_options(OPTION("qcow2_options"), settings.qcow2_options)
    for fs, options in settings.fs_options.items():
        try_fs_options(OPTION(f"fs_opts_{fs}"), fs, options)


__all__ = ["check_values", "copy_options", "flag", "settings_of", "try_values"]
