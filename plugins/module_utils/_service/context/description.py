# Copyright (c) 2026, the granary.vmstore developers
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The content of context images for results and diffs, without secrets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ..._core.secrets import WITHHELD, is_secret_name
from ..._image import nocloud_seed
from ..._image.context_script import LONGEST_SCRIPT, SCRIPT, VOLUME_ID, parse_script
from ..._image.iso_image import IsoLabels

#: Names of the formats by volume id.
FORMATS = {VOLUME_ID: "context", nocloud_seed.VOLUME_ID: "nocloud"}

#: The substitute for a secret that differs from the one before.
_WITHHELD_CHANGED = f"{WITHHELD} (changed)"


def describe(
    labels: IsoLabels, files: Mapping[str, bytes], before: Mapping[str, bytes] | None = None
) -> dict[str, object]:
    """Return the content of an image as plain data. Contents of other files than the generated ones are digests.

    :arg before: the files before a change. Secrets that differ from these are marked.
    """
    described: dict[str, object] = {"format": FORMATS.get(labels.volume_id, labels.volume_id)}
    rest = dict(files)
    if SCRIPT in rest:
        described["variables"] = _redact(_variables(rest.pop(SCRIPT)), _variables((before or {}).get(SCRIPT, b"")))
    for name in ("meta-data", "user-data"):
        parsed = _parse(rest[name]) if name in rest else None
        if parsed is not None:
            described[name] = parsed
            del rest[name]
    described["files"] = {
        name: f"{len(data)} bytes, sha256:{hashlib.sha256(data).hexdigest()}" for name, data in sorted(rest.items())
    }
    return described


def _variables(script: bytes) -> dict[str, str]:
    return parse_script(script) if len(script) <= LONGEST_SCRIPT else {}


def _redact(variables: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    redacted = {}
    for name, value in variables.items():
        is_changed = name in before and before[name] != value
        redacted[name] = (_WITHHELD_CHANGED if is_changed else WITHHELD) if is_secret_name(name) else value
    return redacted


def _parse(data: bytes) -> object:
    """Return the data that cloud-init reads from a file; ``None`` if this collection didn't write the file."""
    if len(data) > LONGEST_SCRIPT:
        return None
    try:
        return json.loads(data.decode().removeprefix("#cloud-config\n"))
    except (RecursionError, ValueError):
        return None


__all__ = ["FORMATS", "describe"]
