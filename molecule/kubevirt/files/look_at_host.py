# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright (c) 2026, the granary.vmstore developers
"""Print the volumes of the running domain web as the tools of the host see them, a line for each observation."""

from __future__ import annotations

import json
import subprocess
import tempfile
import xml.etree.ElementTree as ET


def run(*command: str) -> str:
    """Return the output of a command."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def describe_image(path: str) -> str:
    """Return the format and the size of an image, and the format of its backing file."""
    found = json.loads(run("qemu-img", "info", "-U", "--output=json", path))
    return f"{found['format']} {found['virtual-size']} {found.get('backing-filename-format', '')}".strip()


def list_medium(path: str) -> str:
    """Return the label and the files of a medium."""
    label = run("blkid", "-o", "value", "-s", "LABEL", path).strip()
    files = run("xorriso", "-indev", f"stdio:{path}", "-find", "/", "-type", "f")
    return f"{label} {' '.join(sorted(files.replace(chr(39), '').split()))}"


def read_block(path: str, image_format: str) -> str:
    """Return the text in the second block of 4096 bytes."""
    with tempfile.NamedTemporaryFile() as copy:
        run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, copy.name)
        copy.seek(4096)
        return copy.read(4096).rstrip(b"\0 ").decode()


def main() -> None:
    """Print all observations."""
    root = ET.fromstring(run("virsh", "dumpxml", "web"))
    paths, formats = {}, {}
    for disk in root.findall("devices/disk"):
        alias = disk.find("alias").get("name")
        if not alias.startswith("ua-"):
            continue
        name, source = alias[3:], disk.find("source")
        paths[name] = None if source is None else source.get("file")
        formats[name] = disk.find("driver").get("type")
        words = [disk.get("device"), disk.find("target").get("bus")]
        words += ["read-only"] if disk.find("readonly") is not None else []
        words += [f"thread={disk.find('driver').get('iothread')}"] if disk.find("driver").get("iothread") else []
        print("device", name, *words)
    for name in ("overlay", "container", "scratch"):
        print(name, describe_image(paths[name]))
    for name in ("seed", "drive", "answers", "settings", "about"):
        print(name, list_medium(paths[name]))
    for name in ("data", "log", "scratch", "host"):
        print(name, read_block(paths[name], formats[name]))
    tags = [one.get("dir") for one in root.findall("devices/filesystem/target")]
    print("filesystems", *sorted(tags))
    print("threads", root.findtext("iothreads"))
    print("channel", *(one.get("name") for one in root.findall("devices/channel/target")))


if __name__ == "__main__":
    main()
