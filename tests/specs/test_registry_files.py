"""Every file of the registry, and every way in which one key of it can be wrong: the error names file and key."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from massl_bench.core.errors import RequestError, SpecError
from massl_bench.core.strict import StrictModel
from massl_bench.datasets.copies import CopiesSpec
from massl_bench.specs.dataset import DatasetSpec
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.published import PublishedSpec
from massl_bench.specs.published_weights import PublishedWeights
from massl_bench.specs.registry import Registry, packaged_root
from massl_bench.specs.suite import SuiteSpec
from massl_bench.specs.task import TaskSpec
from massl_bench.specs.toml import parse_setting, read_toml, sealed_toml

KINDS: dict[str, type[StrictModel]] = {
    "tasks": TaskSpec,
    "tasks/datasets": DatasetSpec,
    "tasks/suites": SuiteSpec,
    "tasks/copies": CopiesSpec,
    "tasks/published": PublishedSpec,
    "weights": ManifestSpec,
    "weights/published": PublishedWeights,
}
FILES = [(path, model) for folder, model in KINDS.items() for path in sorted((packaged_root() / folder).glob("*.toml"))]
ONE_OF_EACH = [next(entry for entry in FILES if entry[1] is model) for model in KINDS.values()]


def named(entry: object) -> str:
    return entry.stem if isinstance(entry, Path) else ""


def tables(content: dict[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yields every table of a file with the keys that lead to it."""
    yield place, content
    for key, value in content.items():
        if isinstance(value, dict):
            yield from tables(value, (*place, key))


def written(folder: Path, name: str, content: dict[str, Any]) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps({key: value for key, value in content.items() if key != "content_sha256"}))
    return path


@pytest.mark.parametrize(("path", "model"), FILES, ids=named)
def test_every_file_is_read_and_says_again_what_it_holds(path: Path, model: type[StrictModel], tmp_path: Path) -> None:
    spec = read_toml(path, model)
    again = written(tmp_path, path.stem, spec.model_dump(mode="json", exclude_unset=True))
    unsealed = {"content_sha256": None} if model is ManifestSpec else {}
    assert read_toml(again, model) == spec.model_copy(update=unsealed)


@pytest.mark.parametrize(("path", "model"), ONE_OF_EACH, ids=named)
def test_an_unknown_key_is_named(path: Path, model: type[StrictModel], tmp_path: Path) -> None:
    content = tomllib.loads(path.read_text())
    file = written(tmp_path, path.stem, {**content, "licnce": "MIT"})
    with pytest.raises(SpecError, match="licnce: is not a known key") as caught:
        read_toml(file, model)
    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize(("path", "model"), ONE_OF_EACH, ids=named)
def test_a_value_of_another_type_is_named(path: Path, model: type[StrictModel], tmp_path: Path) -> None:
    content = tomllib.loads(path.read_text())
    content.pop("content_sha256", None)
    tried = 0
    for key, value in content.items():
        if (key, model) == ("params", TaskSpec):
            continue  # of the protocol, which checks them where it is loaded
        wrong = [1.5] if isinstance(value, str) else "a word" if isinstance(value, dict) else {"a": "table"}
        with pytest.raises(SpecError) as caught:
            read_toml(written(tmp_path, path.stem, {**content, key: wrong}), model)
        assert key in str(caught.value).removeprefix(str(tmp_path)), key
        assert "\n" not in str(caught.value)
        tried += 1
    assert tried >= 2


@pytest.mark.parametrize(("path", "model"), ONE_OF_EACH, ids=named)
def test_what_is_missing_is_named(path: Path, model: type[StrictModel], tmp_path: Path) -> None:
    content = tomllib.loads(path.read_text())
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    assert required
    for key in required:
        rest = {name: value for name, value in content.items() if name != key}
        with pytest.raises(SpecError, match=f"{key}: is missing"):
            read_toml(written(tmp_path, path.stem, rest), model)


@pytest.mark.parametrize(("path", "model"), ONE_OF_EACH, ids=named)
def test_an_unknown_key_in_any_table(path: Path, model: type[StrictModel], tmp_path: Path) -> None:
    free = {("params",), ("training",)}  # checked by protocol and method; a note of what was
    for place, _ in tables(tomllib.loads(path.read_text())):
        content = tomllib.loads(path.read_text())
        if place[:1] in free:
            continue
        table = content
        for key in place:
            table = table[key]
        table["a key of nobody"] = 1
        with pytest.raises(SpecError):
            read_toml(written(tmp_path, path.stem, content), model)


def test_a_file_that_is_called_otherwise_than_its_name(tmp_path: Path) -> None:
    file = written(tmp_path, "knn2", tomllib.loads((packaged_root() / "tasks/knn.toml").read_text()))
    with pytest.raises(SpecError, match="name: expected 'knn2', as the file is called, got 'knn'"):
        read_toml(file, TaskSpec)


@pytest.mark.parametrize(
    "content",
    [b"\xff\xfe", b"name = ", b"a = 1\na = 2", b"a = " + b"[" * 5000, b"\x00", b"a = 1979-13-01"],
    ids=["no UTF-8", "cut off", "twice", "deep", "NUL", "no such day"],
)
def test_what_is_no_toml(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(SpecError, match=r"x\.toml: not valid TOML: ") as caught:
        read_toml(tmp_path / "x.toml", TaskSpec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400 + len(str(tmp_path))


def test_a_directory_and_a_file_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "x.toml").mkdir()
    for name in ("x.toml", "y.toml"):
        with pytest.raises(SpecError, match=name):
            read_toml(tmp_path / name, TaskSpec)


def test_own_files_hide_packaged_ones_and_the_first_directory_wins(tmp_path: Path) -> None:
    content = tomllib.loads((packaged_root() / "tasks/knn.toml").read_text())
    for number in (1, 2):
        (tmp_path / str(number) / "tasks").mkdir(parents=True)
        written(tmp_path / str(number) / "tasks", "knn", {**content, "summary": f"mine, {number}"})
    assert Registry([tmp_path / "1", tmp_path / "2"]).task("knn").summary == "mine, 1"
    assert Registry().task("knn").summary == content["summary"]
    with pytest.raises(SpecError, match="expected a directory with a folder tasks/ inside"):
        Registry([tmp_path])
    with pytest.raises(RequestError, match="did you mean knn"):
        Registry().task("knm")


PLAIN = st.recursive(
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3),
    max_leaves=8,
)


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=6).filter(lambda key: key != "content_sha256"), PLAIN
    )
)
def test_what_is_written_is_read_again(content: dict[str, Any]) -> None:
    text = sealed_toml(content)
    seal, *_ = text.splitlines()
    assert seal.startswith('content_sha256 = "')
    assert {key: value for key, value in tomllib.loads(text).items() if key != "content_sha256"} == content


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("20", 20),
        ("0.5", 0.5),
        ("1e-3", 1e-3),
        ("true", True),
        ("10,20", [10, 20]),
        ("[10, 20]", [10, 20]),
        ('"20"', "20"),
        ("word", "word"),
        ("a,b", "a,b"),
        ("", []),  # a list without brackets, and without members
        ("[" * 2000, "[" * 2000),
    ],
)
def test_settings_are_written_as_in_toml(text: str, value: object) -> None:
    assert parse_setting(text) == value
