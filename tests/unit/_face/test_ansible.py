# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Ansible face, run by ansible-core itself: the result of a module, and its line in the log.

The face overrides private parts of AnsibleModule, so this file runs on every supported ansible-core. It needs only
pytest and ansible-core.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from ansible.module_utils.common.parameters import PASS_VARS
from ansible.module_utils.testing import patch_module_args
from ansible_collections.granary.vmstore.plugins.module_utils._catalog.catalog import open_catalog
from ansible_collections.granary.vmstore.plugins.module_utils._core.arguments import ArgumentSpec
from ansible_collections.granary.vmstore.plugins.module_utils._core.errors import InvalidDeclaration
from ansible_collections.granary.vmstore.plugins.module_utils._core.problems import Problem
from ansible_collections.granary.vmstore.plugins.module_utils._face.ansible import run_info_module, run_module
from ansible_collections.granary.vmstore.plugins.module_utils._service.context.context import ContextService
from ansible_collections.granary.vmstore.plugins.module_utils._service.context.desired import VM_CONTEXT_SPEC
from ansible_collections.granary.vmstore.plugins.module_utils._service.ids.subid import (
    SUBID_SPEC,
    SubidService,
    SubidSpec,
)
from ansible_collections.granary.vmstore.plugins.module_utils._service.image.images import IMAGE_SPEC, ImageService

Answer = Callable[..., dict[str, Any]]


@pytest.fixture
def subid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    def run(**arguments: object) -> dict[str, Any]:
        with patch_module_args({"user": "nobody-here", **arguments}), pytest.raises(SystemExit):
            run_module(SUBID_SPEC, lambda options: SubidService(SubidSpec(**options), str(tmp_path)))
        return json.loads(capsys.readouterr().out)

    return run


def test_check_run_and_run_again(subid: Answer, tmp_path: Path) -> None:
    foretold = subid(_ansible_check_mode=True, _ansible_diff=True)
    assert not (tmp_path / "subuid").exists()
    done = subid(_ansible_diff=True)
    assert (foretold["actions"], foretold["diff"], foretold["changed"]) == (done["actions"], done["diff"], True)
    assert (tmp_path / "subuid").read_text() == "nobody-here:100000:65536\n"
    again = subid()
    assert (again["changed"], again["actions"], "diff" in again) == (False, [], False)


def test_a_truth_value_is_no_number(subid: Answer, tmp_path: Path) -> None:
    answer = subid(start=True)
    assert answer["failed"]
    assert answer["msg"] == "start: True is not accepted: a whole number is expected."
    assert (answer["error"], answer["option"]) == ("InvalidInput", "start")
    assert list(tmp_path.iterdir()) == []


def test_a_defect_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with patch_module_args({}), pytest.raises(SystemExit):
        run_info_module(ArgumentSpec({}), lambda options: {"x": options["nothing"]})
    answer = json.loads(capsys.readouterr().out)
    assert answer["failed"]
    assert answer["msg"] == "A defect in granary.vmstore: KeyError: 'nothing'."
    assert {"error", "option"}.isdisjoint(answer)


def test_the_problems_of_a_declaration(capsys: pytest.CaptureFixture[str]) -> None:
    """A playbook gets them as data. JSON has no number of thousands of digits, and nobody reads a megabyte."""
    values: list[object] = [None, 7, "virtio", "x" * (1 << 20), 10**9999, float("inf"), b"x"]
    given = [Problem(f"rule{place}", f"disks[{place}]", value, "less") for place, value in enumerate(values)]

    def read(_options: object) -> NoReturn:
        raise InvalidDeclaration(given)

    with patch_module_args({}), pytest.raises(SystemExit):
        run_info_module(ArgumentSpec({}), read)
    answer = json.loads(capsys.readouterr().out)
    assert (answer["failed"], answer["error"], "option" in answer) == (True, "InvalidDeclaration", False)
    assert answer["problems"][2] == {"rule": "rule2", "path": "disks[2]", "value": "virtio", "accepted": "less"}
    found = [one["value"] for one in answer["problems"]]
    assert found[:2] == [None, 7] and found[5:] == ["inf", "b'x'"]
    assert all(len(str(one)) < 250 for one in found) and len(answer["msg"]) < 1000


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the lines that modules log."""
    lines: list[str] = []
    monkeypatch.setattr(
        "ansible.module_utils.basic.AnsibleModule.log", lambda _module, text, **_more: lines.append(text)
    )
    return lines


@pytest.mark.parametrize("fails", [False, True])
def test_null_options_and_headers_are_in_no_invocation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logged: list[str], fails: bool
) -> None:
    with open_catalog(catalog := str(tmp_path / "catalog.sqlite"), create=True):
        pass
    headers = {"Authorization": "Bearer pa55word-of-8"}
    image = {"name": "x", "state": "absent", "headers": headers, "datastore": "missing" if fails else None}
    # ansible-core before 2.21 always returns the invocation. Later versions return it at the controller's request.
    asked = {"_ansible_inject_invocation": True} if "inject_invocation" in PASS_VARS else {}
    with patch_module_args({"catalog": catalog, **asked, **image}), pytest.raises(SystemExit):
        run_module(IMAGE_SPEC, ImageService)
    answer = json.loads(capsys.readouterr().out)
    given = answer["invocation"]["module_args"]
    assert (given["name"], given["headers"]) == ("x", {"Authorization": "..."})
    assert None not in given.values()
    (line,) = [one for one in logged if "Invoked with" in one]
    assert "name=x" in line
    assert "None" not in line
    assert "pa55" not in json.dumps(answer) + line


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("as_text", [False, True])
def test_secret_variables_and_contents_are_in_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logged: list[str], fails: bool, as_text: bool
) -> None:
    variables: object = {"NETWORK": "YES", "PASSWORD": "pa55-word", "USER_TOKEN": "pa55\n'word", "N": 7}
    if as_text:
        variables = "NETWORK=YES PASSWORD=pa55-word"
    asked = {"_ansible_inject_invocation": True} if "inject_invocation" in PASS_VARS else {}
    options = {
        "path": "x.iso" if fails else str(tmp_path / "x.iso"),
        "variables": variables,
        "files": [{"name": "x", "content": "pa55"}],
    }
    given = {"_ansible_check_mode": True, "_ansible_diff": True, **asked, **options}
    with patch_module_args(given), pytest.raises(SystemExit):
        run_module(VM_CONTEXT_SPEC, ContextService)
    answer = json.loads(capsys.readouterr().out)
    assert answer.get("failed", False) is fails
    given = answer["invocation"]["module_args"]
    assert (given["variables"]["NETWORK"], given["variables"]["PASSWORD"]) == ("YES", "...")
    assert given["files"][0] == {"name": "x", "content": "..."}
    (line,) = [one for one in logged if "Invoked with" in one]
    assert "pa55" not in json.dumps(answer) + line


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "url",
    [
        "http://user:pa55@127.0.0.1:1/x?token=pa55",
        "HTTP://127.0.0.1:1/x?pa55",
        "http://user:pa55/w@127.0.0.1/x",
        "https://user:pa55@[::1/x",
        "http://pa55@[::1]:1/",
        "http://127.0.0.1:1/x#pa55",
        "ftp://user:pa55@127.0.0.1/x",
        "ftp://pa55@127.0.0.1/x",
        "ssh://user:pa55@127.0.0.1/x",
        " http://user:pa55@127.0.0.1/x",
        "\thttp://127.0.0.1/x?pa55",
        "http:/user:pa55@127.0.0.1/x",
        "http:/127.0.0.1/x?token=pa55",
        "http//user:pa55@127.0.0.1/x",
        "//user:pa55@127.0.0.1/x",
        "user:pa55@127.0.0.1:/x",
        "http://user:pa 55/pa55@127.0.0.1/x",
        "s3://user:it's\\pa55@bucket/x",
        "http:/user:pa55@127.0.0.1/" + "x" * 300,
    ],
)
@pytest.mark.parametrize("check", [False, True])
def test_secrets_of_urls_are_told_nobody(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    logged: list[str],
    url: str,
    many: bool,
    check: bool,
) -> None:
    with open_catalog(catalog := str(tmp_path / "catalog.sqlite"), create=True, datastore_location=str(tmp_path)):
        image = {"name": "x", "datastore": "default", "type": "os", "url": url}
    given = {"images": [image]} if many else image
    with (
        patch_module_args({"catalog": catalog, "_ansible_check_mode": check, "_ansible_diff": True, **given}),
        pytest.raises(SystemExit),
    ):
        run_module(IMAGE_SPEC, ImageService)
    out = capsys.readouterr().out
    assert any("Invoked with" in line for line in logged)
    assert "pa55" not in out + "".join(logged)
    invocation = json.loads(out).get("invocation")  # from ansible-core 2.21 on only at the controller's request
    assert many or invocation is None or "name" in invocation["module_args"]


SECRET = "http:/user:pa55'word@127.0.0.1/x"


@pytest.mark.parametrize(
    "given",
    [
        {"path": SECRET},
        {"name": SECRET},
        {"size": SECRET},
        {"clone_from": [SECRET]},
        {"checksum": SECRET},
        {"type": SECRET},
        {"url": {"x": SECRET}},
        {"unknown": SECRET},
        {"images": SECRET},
        {"images": f"name=x url={SECRET}"},
        {"images": json.dumps([{"name": "x", "url": SECRET}])},
        {"images": [{"name": "x", "url": SECRET}, {"name": "y", "size": SECRET}]},
        {"images": [{"name": "x", "ur": SECRET}]},
        {"images": [{"name": SECRET + "x" * 300, "size": 1}]},
        {"uid_map": SECRET},
        {"uid_map": [{"start": SECRET}]},
    ],
)
def test_a_secret_in_the_wrong_option_is_told_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], logged: list[str], given: dict[str, Any]
) -> None:
    with open_catalog(catalog := str(tmp_path / "catalog.sqlite"), create=True):
        image = {} if "images" in given else {"name": "x", "datastore": "default", "type": "os"}
    with patch_module_args({"catalog": catalog, "_ansible_diff": True, **image, **given}), pytest.raises(SystemExit):
        run_module(IMAGE_SPEC, ImageService)
    out = capsys.readouterr().out
    assert json.loads(out)["failed"]
    assert "pa55" not in out + "".join(logged)


def test_what_is_no_secret_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_catalog(catalog := str(tmp_path / "catalog.sqlite"), create=True):
        pass
    for url in ("ssh://backup@127.0.0.1/none@2024", "/srv/data@2024/x?#", "qemu+ssh://root@h1/system?keyfile=/x"):
        with (
            patch_module_args({"catalog": catalog, "name": "x", "datastore": url, "type": "os", "size": 1}),
            pytest.raises(SystemExit),
        ):
            run_module(IMAGE_SPEC, ImageService)
        answer = json.loads(capsys.readouterr().out)
        assert url in answer["msg"] or "none@2024" in url, answer


@pytest.fixture
def images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Answer:
    """Return the result of a list of images."""
    catalog = str(tmp_path / "catalog.sqlite")
    (tmp_path / "datastores").mkdir()
    open_catalog(catalog, create=True, datastore_location=str(tmp_path / "datastores")).close()

    def run(*elements: object) -> dict[str, Any]:
        with patch_module_args({"catalog": catalog, "images": list(elements)}), pytest.raises(SystemExit):
            run_module(IMAGE_SPEC, ImageService)
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize(
    ("element", "message"),
    [
        (
            {"nam": "x"},
            "Unsupported parameters: images.nam. Supported parameters include: ca_path, checksum, clone_from, ",
        ),
        ({"name": "x", "id": "y"}, "argument 'id' is of type str found in 'images'"),
        ({"name": "x", "state": "gone"}, "value of state must be one of: present, absent, got: gone found in images"),
        ({"name": "x", "uid_map": [{}]}, "missing required arguments: target found in images -> uid_map"),
        ({"name": "x", "id": True}, "images.id: True is not accepted: a whole number is expected."),
        (["x"], "Elements value for option 'images' is of type"),
    ],
)
def test_elements_of_a_list_are_checked_as_options_are(images: Answer, element: object, message: str) -> None:
    answer = images({"name": "ok", "state": "absent"}, element)
    assert answer["failed"]
    assert message in answer["msg"]


def test_a_failure_has_the_class_of_the_error(images: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    answer = images({"name": "x", "state": "absent"}, {"name": "y", "datastore": "none", "type": "os", "size": 1})
    assert (answer["error"], "option" in answer) == ("DependencyNotFound", False)
    answer = images({"name": "x", "datastore": "default", "type": "os", "size": "much"})
    assert (answer["error"], answer["option"]) == ("InvalidInput", "size")
    good = {"datastore": "default", "type": "datablock", "size": 1}
    answer = images(
        {**good, "name": "good"}, {**good, "name": "bad", "type": "os", "path": "/var/tmp/none", "size": None}
    )
    assert (answer["error"], answer["changed"]) == ("PartlyDone", True)
    with patch_module_args({}), pytest.raises(SystemExit):
        run_info_module(ArgumentSpec({}), lambda _options: {"x": open("/proc/none")})
    assert json.loads(capsys.readouterr().out)["error"] == "FileAccessFailed"


def test_elements_of_a_list_are_converted_and_completed_as_options_are(images: Answer) -> None:
    answer = images(
        {"name": 5.5, "datastore": "default", "type": "datablock", "size": "2", "persistent": "yes"},
        {"name": "gone", "state": "absent"},
    )
    assert [(one["name"], one["size_mb"], one["persistent"]) for one in answer["images"]] == [("5.5", 2, True)]
