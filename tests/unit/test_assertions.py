# Copyright (c) 2026, the granary.vmstore developers
# SPDX-License-Identifier: GPL-3.0-or-later
"""The assertions of tests about errors: classes and fields, and each sentence once."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: The tests of the results themselves, with the sentences of Ansible.
RESULTS = "tests/unit/_face/test_ansible.py"
#: Methods of a text that compare a part of it.
COMPARING = {"startswith", "endswith"}
#: Functions of pytest and of unittest.mock that replace an attribute.
PATCHING = {"setattr", "patch", "object"}
#: Number of words that sentences about different things can have in common, such as "is not accepted".
FEWEST_WORDS = 4


def read_tests() -> Iterator[tuple[str, ast.Module]]:
    """Yield the path and the syntax tree of each file of tests."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def calls_in(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Yield the name of the called function, without its module, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            yield node.func.id if isinstance(node.func, ast.Name) else node.func.attr, node


def is_message(node: ast.AST) -> bool:
    """Return whether an expression is the message of a caught error: ``str(caught.value)``."""
    return (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) == "str"
        and isinstance(node.args[0], ast.Attribute)
        and node.args[0].attr == "value"
    )


def is_result_message(node: ast.AST) -> bool:
    """Return whether an expression is the message of a module's result: ``result["msg"]``."""
    return isinstance(node, ast.Subscript) and ast.unparse(node.slice) == "'msg'"


def find_patterns(tree: ast.AST) -> list[int]:
    """Return the lines that compare a message with a pattern, with a part of it, or in another way than ``refused`` or
    ``require_failure``.
    """
    found = [
        node.lineno
        for name, node in calls_in(tree)
        if name == "raises" and any(k.arg == "match" for k in node.keywords)
    ]
    found += [
        node.lineno
        for name, node in calls_in(tree)
        if name in COMPARING
        and isinstance(node.func, ast.Attribute)
        and (is_message(node.func.value) or is_result_message(node.func.value))
    ]
    found += [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Compare)
        and any(is_message(one) or is_result_message(one) for one in (node.left, *node.comparators))
        and not any(isinstance(operator, ast.NotIn) for operator in node.ops)
    ]
    return sorted(found)


def find_private(tree: ast.AST) -> list[int]:
    """Return the lines that replace a private attribute of a module or a class."""
    return sorted(
        node.lineno
        for name, node in calls_in(tree)
        if name in PATCHING
        for argument in node.args[:2]
        if isinstance(argument, ast.Constant) and re.search(r"(^|\.)_[a-z]", str(argument.value), re.IGNORECASE)
    )


def text_of(node: ast.expr) -> str:
    """Return a literal with an asterisk for each value that is not in the source."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    return "*"


def words_of(sentence: str) -> str:
    """Return a message without what differs from one use to the next: values in quotation marks, paths and numbers.

    What is accepted is the same whatever the option. A sentence of values alone has no words of its own.
    """
    words = re.sub(r"(?<![a-z])'[^']*'(?![a-z])|\"[^\"]*\"|\b[a-z]+://\S*?(?=:? |\.?$)|/[\w./-]+|\d+", "*", sentence)
    words = re.sub(r"[^\s:;,()]*\*[^\s:;,()]*", "*", words)
    words = re.sub(r"^\S+(?=: | is missing)", "*", words)
    return words if len(re.findall("[a-z]{2,}", words)) > FEWEST_WORDS else ""


def find_repeated(sentences: dict[str, str]) -> list[list[str]]:
    """Return the places, given as keys, of sentences that have the same words."""
    places = defaultdict(list)
    for place, sentence in sentences.items():
        places[words_of(sentence)].append(place)
    return [found for words, found in places.items() if words and len(found) > 1]


def read_sentences(path: str, tree: ast.AST) -> dict[str, str]:
    """Return the sentences that ``refused`` and ``require_failure`` compare, by path and line."""
    return {
        f"{path}:{keyword.value.lineno}": text_of(keyword.value)
        for name, node in calls_in(tree)
        if name in ("refused", "require_failure")
        for keyword in node.keywords
        if keyword.arg == "says"
    }


def test_comparisons_of_messages_are_found() -> None:
    source = """
with pytest.raises(NotFound, match="no image"):
    act()
with raises(NotFound) as caught, refused(NotFound):
    act(match="x")
assert str(caught.value) == "There is no image."
assert "image" in str(caught.value)
assert "secret" not in str(caught.value)
assert str(caught.value).startswith("There")
assert str(caught).startswith("There")
assert "image" in result["msg"]
assert result["msg"].endswith("image.")
assert "secret" not in result["msg"], result["msg"]
assert "msg" not in result
"""
    assert find_patterns(ast.parse(source)) == [2, 6, 7, 9, 11, 12]


def test_private_names_that_are_replaced_are_found() -> None:
    source = """
monkeypatch.setattr(module, "LIMIT", 1)
monkeypatch.setattr(module, "_LIMIT", 1)
monkeypatch.setattr("module._limit", 1)
with patch.object(Class, "_run"), mock.patch("os.path"):
    setattr(module, "limit", "_x")
"""
    assert find_private(ast.parse(source)) == [3, 4, 5]


def test_sentences_with_the_same_words_are_found() -> None:
    source = """
refused(NotFound, says=f"There is no image {name!r} in the catalog {path}.")
refused(NotFound, says="There is no image 'x' in the catalog /srv/c.")
refused(NotFound, says="There is no image 'x' in the datastore 5.")
refused(InvalidInput, says="a: 5 is not accepted: a whole number is expected.")
refused(InvalidInput, says="b.c: 'x' is not accepted: a whole number is expected.")
refused(InvalidInput, says=f"a: {value} is not accepted: {accepted}.")
refused(InvalidInput, says=f"b: {value} is not accepted: {accepted}.")
"""
    assert find_repeated(read_sentences("x", ast.parse(source))) == [["x:2", "x:3"], ["x:5", "x:6"]]


def test_messages_are_compared_by_the_functions_of_refusal_only() -> None:
    found = [f"{path}:{line}" for path, tree in read_tests() for line in find_patterns(tree)]
    assert [place for place in found if not place.startswith(f"{RESULTS}:")] == []


def test_no_private_name_is_replaced() -> None:
    assert [f"{path}:{line}" for path, tree in read_tests() for line in find_private(tree)] == []


def test_a_sentence_stands_in_one_test() -> None:
    sentences: dict[str, str] = {}
    for path, tree in read_tests():
        sentences.update(read_sentences(path, tree))
    assert len(sentences) > 300
    assert find_repeated(sentences) == []
