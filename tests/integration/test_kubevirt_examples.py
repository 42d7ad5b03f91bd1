# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every example of KubeVirt's guide, given to domains by the module in one run."""

from __future__ import annotations

import http.server
import json
import re
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration
from ansible_collections.granary.vmstore.plugins.module_utils._volume.manifest import read_manifest
from container_images import image_archive, qcow2_disk
from kubevirt_examples import EXAMPLES, EXPECTED, THREADS
from lab import Lab
from refusal import require_failure
from running_disks import DOMAIN, PORT
from volume_domain import CACHE, DIRECTORY

Execute = Callable[..., str]

#: The directory of the test on the host.
STORE = "/srv/examples"
CATALOG = f"{STORE}/catalog.sqlite"
DATASTORE = {"catalog": CATALOG, "name": "default", "datastore_location": f"{STORE}/datastores", "type": "image"}
#: The processors of domains, where an example depends on the number.
VCPUS = {"multi-queue": 4}
#: The examples that KubeVirt refuses, too: for a lun on an ephemeral volume, and for names with an underscore.
REFUSED = ("ephemeral", "io-threads-shared")
#: Defines a domain of each pair of a name and a number of processors, from the definition on stdin.
DEFINE = """
cat >/tmp/example.xml
while [ $# -gt 0 ]; do
    sed "s/NAME/$1/; s/VCPUS/$2/" /tmp/example.xml | virsh --quiet define --validate /dev/stdin
    shift 2
done
"""
#: Makes the data of each pair of a kind and a path, and prints the path, or that of a loop device.
CREATE = """
for number in $(seq 0 63); do [ -e /dev/loop$number ] || mknod /dev/loop$number b 7 $number; done
while [ $# -gt 0 ]; do
    if [ $1 = dir ]; then mkdir "$2"; chown 100000:100000 "$2"; else truncate -s 8M "$2"; fi
    if [ $1 = block ]; then losetup --find --show "$2"; else echo "$2"; fi
    shift 2
done
"""
CONTENTS = {
    "config_maps": {"app-config": {"data": {"DATABASE": "staging"}}},
    "secrets": {"app-secret": {"data": {"password": "x"}}, "testsecret": {"data": {"userdata": "#cloud-config\n"}}},
    "service_accounts": {"default": {"data": {"token": "x"}}},
}


@pytest.fixture
def store(site: Lab, execute: Execute) -> Iterator[str]:
    """Return the directory on the host, without the data of domains."""
    clean = f"""
    for name in $(virsh list --all --name | grep '^example-'); do virsh undefine $name; done
    losetup --list --noheadings --output NAME,BACK-FILE | grep ' {STORE}/' | while read -r name _file; do
        losetup --detach $name
    done
    rm -rf {STORE} {DIRECTORY} {CACHE} /data/disk.img
    """
    execute("hv1", "mkdir", "-p", f"{STORE}/datastores/1", "/data")
    yield STORE
    execute("hv1", "sh", "-c", clean)


@pytest.fixture
def server(execute: Execute, tmp_path: Path) -> Iterator[str]:
    """Run a server with the image of a data volume, and return its address as the host sees it."""
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "alpine.iso").write_bytes(bytes(1 << 20))
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_arguments: None})
    address = execute("hv1", "sh", "-c", "echo ${SSH_CONNECTION%% *}").strip()
    with http.server.ThreadingHTTPServer(("", 0), partial(quiet, directory=str(tmp_path))) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"{address}:{running.server_port}"
        running.shutdown()


@dataclass(frozen=True)
class Example:
    """A manifest of the guide for a domain of this host.

    :ivar stem: the name of the example, which can have several manifests.
    """

    name: str
    stem: str
    text: str
    is_refused: bool = False

    @property
    def claims(self) -> list[tuple[str, str]]:
        """Return the kind and the name of each image that the example needs."""
        names = re.findall(r'"claimName": "([^"]*)"', self.text)
        names += (
            [] if "dataVolumeTemplates" in self.text else re.findall(r'"dataVolume": {"name": "([^"]*)"', self.text)
        )
        kind = "dir" if '"filesystems"' in self.text else "block" if '"lun"' in self.text else "raw"
        return [(kind, name) for name in names]

    def path(self, claim: str) -> str:
        # The manifests of one example share a claim.
        return f"{STORE}/{self.stem}-{claim}"

    def options(self, paths: Mapping[str, str]) -> dict[str, Any]:
        """Return the options of the module.

        :arg paths: the paths of the claims' data by :meth:`path`.
        """
        claims = [
            {
                "id": number,
                "name": name,
                "path": paths[self.path(name)],
                "format": "dir" if kind == "dir" else "raw",
                "persistent": True,
                "read_only": False,
            }
            for number, (kind, name) in enumerate(self.claims)
        ]
        given = {"claims": claims} if claims else {}
        return {**read_manifest([json.loads(self.text)]).options, **CONTENTS, **given, "domain": self.name}


def read_examples(server: str) -> Iterator[Example]:
    """Yield the examples, with an image and a server that this host reaches.

    The filter refuses the one whose volumes are in the wrong place.
    """
    for stem, documents in sorted(EXAMPLES.items()):
        for number, document in enumerate(documents):
            text = json.dumps(document).replace("cdi-http-import-server.kubevirt", server)
            text = re.sub(r'"image": "[^"]*"', f'"image": "oci-archive:{STORE}/image.tar"', text)
            name = f"example-{stem}-{number}"
            if stem != "filesystems-under-domain":
                yield Example(name, stem, text, stem in REFUSED)
            if stem in REFUSED and "_" in text:
                yield Example(f"{name}-corrected", stem, text.replace("vmi-shared_disk", "vmi-shared-disk"))


def describe(root: ET.Element) -> list[str]:
    """Return the devices of a domain as the table of examples has them, without further properties."""
    found = []
    for disk in root.iterfind("devices/disk"):
        alias, target, driver = (disk.find(tag) for tag in ("alias", "target", "driver"))
        assert alias is not None and target is not None and driver is not None
        name = alias.get("name", "").removeprefix("ua-")
        device = f"{disk.get('device')}/{target.get('bus')}"
        found.append(f"{name} {device} {target.get('dev')} {driver.get('type')} {driver.get('cache')}")
    found += [f"filesystem {one.get('dir')}" for one in root.iterfind("devices/filesystem/target")]
    port = root.find("devices/channel/target[@name='org.github.vhostmd.1']")
    return found + ["port"] * (port is not None)


def test_every_example_of_the_guide(
    site: Lab,
    store: str,
    server: str,
    execute: Execute,
    tasks_in: Callable[[Lab], Callable[..., list[dict[str, Any]]]],
    tmp_path: Path,
) -> None:
    disk = qcow2_disk(tmp_path)
    image = image_archive(tmp_path, ("disk/disk.qcow2", disk), ("custom-disk-path/fedora25.qcow2", disk))
    site.ssh("hv1", f"cat >{store}/image.tar", stdin=image)
    examples = list(read_examples(server))
    needed = {one.path(name): kind for one in examples for kind, name in one.claims}
    pairs = [word for path, kind in needed.items() for word in (kind, path)]
    paths = dict(zip(needed, execute("hv1", "sh", "-ec", CREATE, "create", *pairs).split(), strict=True))
    ports = "".join(PORT.format(number) for number in range(1, 10))
    definition = DOMAIN.format("NAME", "<vcpu>VCPUS</vcpu>", ports)
    sizes = [word for one in examples for word in (one.name, str(VCPUS.get(one.stem, 2)))]
    execute("hv1", "sh", "-ec", DEFINE, "define", *sizes, stdin=definition)

    refused, accepted = ([one for one in examples if one.is_refused is is_refused] for is_refused in (True, False))
    common = {"directory": DIRECTORY, "cache": CACHE, "catalog": CATALOG}
    given, others = ({"domains": [one.options(paths) for one in some], **common} for some in (accepted, refused))
    drivers = {"ds_driver": "fs", "tm_driver": "local"}
    made, done, again, failed = tasks_in(site)(
        ("datastore", {**DATASTORE, **drivers}, False),
        ("domain_volumes", given, False),
        ("domain_volumes", given, False),
        ("domain_volumes", others, False),
    )
    assert [one.get("msg") for one in (made, done, again)] == [None] * 3
    assert (done["changed"], again["changed"], again["actions"]) == (True, False, [])
    require_failure(failed, InvalidDeclaration, names=["domains[0].disks[0].lun", "domains[1].disks[0].name"])
    assert not failed["changed"]

    text = execute("hv1", "sh", "-ec", 'for name; do virsh dumpxml --inactive "$name"; done', "dump", *sizes[::2])
    found = {root.findtext("name"): root for root in ET.fromstring(f"<all>{text}</all>")}
    assert {one.name: describe(found[one.name]) for one in accepted if one.stem in EXPECTED} == {
        one.name: [" ".join(line.split()[:5]) for line in EXPECTED[one.stem]]
        for one in accepted
        if one.stem in EXPECTED
    }
    assert [describe(found[one.name]) for one in refused] == [[]] * len(refused)
    for policy, (count, threads) in THREADS.items():
        [root] = [found[one.name] for one in accepted if one.stem == f"io-threads-{policy}"]
        drivers_of_disks = root.findall("devices/disk/driver")
        assert root.findtext("iothreads") == str(count)
        assert [one.get("iothread") for one in drivers_of_disks] == [str(number) for number in threads]
    queues = found["example-multi-queue-0"].find("devices/disk/driver")
    assert queues is not None and queues.get("queues") == "4"
