"""Records to tables: which ones enter, and what is said of the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core.files import sha256_of
from massl_bench.records.reading import read_record
from massl_bench.records.record import Identity
from massl_bench.records.rows import collect
from massl_bench.records.tables import to_csv, to_json, to_markdown
from massl_bench.specs.registry import Registry
from tests.made_records import edit, rehash, write_sealed


def suite_of_two(tmp_path: Path, *cells: tuple[str, str]) -> Registry:
    """A registry with the suite `two` of these cells, (task, dataset)."""
    suites = tmp_path / "own" / "tasks" / "suites"
    suites.mkdir(parents=True)
    listed = ", ".join(f'{{ task = "{task}", dataset = "{dataset}" }}' for task, dataset in cells)
    (suites / "two.toml").write_text(f'name = "two"\nsummary = "s"\ncells = [{listed}]\n')
    return Registry([tmp_path / "own"])


def test_the_latest_record_of_each_weights_enters(record_file: Path, tmp_path: Path) -> None:
    def later(content: dict[str, Any]) -> None:
        content["created_at"] = "2999-01-01T00:00:00+00:00"
        content["identity"]["model"]["name"] = "renamed"
        content["metrics"]["top1@20"].update(value=0.5, ci95=[0.48, 0.52])
        rehash(content)

    def other_weights(content: dict[str, Any]) -> None:
        content["identity"]["model"]["weights_sha256"] = "f" * 64
        rehash(content)

    edit(record_file, later, Path("results/renamed/knn/digits.json"))
    edit(record_file, other_weights, Path("results/other/knn/digits.json"))
    board = collect(Path("results"), Registry())
    assert sorted(row.record.identity.model.name for row in board.rows) == ["pixels", "renamed"]
    table = to_markdown(board)
    assert "50.00 ±" in table
    assert "**95.78 ± " in table


def test_records_of_other_data_are_named_and_nothing_is_bold(record_file: Path) -> None:
    def other_weights(content: dict[str, Any]) -> None:
        content["identity"]["model"].update(name="other", weights_sha256="f" * 64)
        content["metrics"]["top1@20"]["value"] = 0.5
        rehash(content)

    def other_data(content: dict[str, Any]) -> None:
        content["identity"]["dataset"]["fingerprint"] = "e" * 64
        rehash(content)

    other = edit(record_file, other_weights, Path("results/other/knn/digits.json"))
    table = to_markdown(collect(Path("results"), Registry()))
    assert "**95.78" in table
    assert "copies" not in table
    edit(other, other_data)
    table = to_markdown(collect(Path("results"), Registry()))
    assert "**" not in table
    assert "different copies of the data" in table
    assert "- knn digits: eeeeeeee (other); " in table
    assert table.rstrip().endswith("(pixels)")


def test_handed_in_features_are_no_other_copy_of_the_data(record_file: Path) -> None:
    def handed_in(content: dict[str, Any]) -> None:
        content["identity"]["model"].update(name="own", weights_sha256="f" * 64, weights_hash_of="features")
        content["identity"]["dataset"]["fingerprint"] = "f" * 64
        rehash(content)

    edit(record_file, handed_in, Path("results/own/knn/digits.json"))
    assert "different copies" not in to_markdown(collect(Path("results"), Registry()))


def test_what_stays_apart(record_file: Path) -> None:
    def stale(content: dict[str, Any]) -> None:
        content["identity"]["task"]["version"] = 0
        rehash(content)

    def other_numbers(content: dict[str, Any]) -> None:
        content["identity"]["task"]["spec_sha256"] = "0" * 64
        rehash(content)

    def partial(content: dict[str, Any]) -> None:
        content["complete"] = False

    def unknown_task(content: dict[str, Any]) -> None:
        content["identity"]["task"]["name"] = "knnn"
        rehash(content)

    for number, change in enumerate((stale, other_numbers, partial, unknown_task)):
        edit(record_file, change, Path(f"results/m{number}/knn/digits.json"))
    board = collect(Path("results"), Registry())
    assert len(board.rows) == 1
    reasons = " | ".join(reason for _, reason in board.apart)
    for part in ("stale: version 0 of knn, the current one is 1", "other numbers", "partial", "unknown task 'knnn'"):
        assert part in reasons
    assert len(to_csv(board).splitlines()) == 2


def test_what_cannot_be_read_stays_apart(record_file: Path) -> None:
    text = record_file.read_text()
    folder = record_file.parent
    contents = {
        "truncated": text[:200].encode(), "latin": b"\xff\xfe", "list": b"[]",
        "newer": text.replace('"schema_version": 2', '"schema_version": 99').encode(),
        "edited": text.replace('"seed": 0', '"seed": 1').encode(),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / f"{name}.json").write_bytes(content)
    (folder / "folder.json").mkdir()
    board = collect(Path("results"), Registry())
    assert [row.path.as_posix() for row in board.rows] == ["pixels/knn/digits.json"]
    reasons = {path.as_posix(): reason for path, reason in board.apart}
    assert sorted(reasons) == sorted(f"pixels/knn/{name}.json" for name in [*contents, "folder"])
    for name, part in {
        "truncated": "not a result record", "latin": "not a result record", "list": "got None",
        "newer": "expected 1 or 2, got 99", "edited": "does not match the identity", "folder": "directory",
    }.items():  # fmt: skip
        assert reasons[f"pixels/knn/{name}.json"].startswith("unreadable: ")
        assert part in reasons[f"pixels/knn/{name}.json"]


def test_handed_features_of_a_model_are_one_row(record_file: Path) -> None:
    """The hash is that of a file: one for each dataset of a model, and maybe the same file under two names."""

    def of(model: str, dataset: str, sha256: str) -> None:
        def change(content: dict[str, Any]) -> None:
            content["identity"]["model"].update(name=model, weights_sha256=sha256, weights_hash_of="features")
            content["identity"]["dataset"]["name"] = dataset
            rehash(content)

        edit(record_file, change, Path(f"results/{model}/knn/{dataset}.json"))

    of("mine", "a", "a" * 64)
    of("mine", "b", "b" * 64)
    of("yours", "a", "a" * 64)
    record_file.unlink()
    lines = to_markdown(collect(Path("results"), Registry())).splitlines()
    rows = [[cell.strip(" *") for cell in line.split("|")[1:-1]] for line in lines[2:4]]
    assert [row[0] for row in rows] == ["mine", "yours"]
    assert [row[1:].count("–") for row in rows] == [0, 1]


def test_the_same_weights_fed_in_two_ways_are_two_rows(record_file: Path) -> None:
    """Under two names they are two rows, in every cell; under one, the newer is shown, and the older is named."""
    content = json.loads(record_file.read_text())
    record_file.unlink()
    fed = {"resize": 32, "resize_mode": "shortest", "crop": 32, "interpolation": "bicubic"}
    fed |= {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}

    def written(file: str, name: str, dataset: str, day: int, **changes: Any) -> None:
        each = json.loads(json.dumps(content))
        each["identity"]["model"].update(name=name, weights_sha256="a" * 64, weights_hash_of="tensors")
        each["identity"]["dataset"]["name"] = dataset
        each["identity"]["preprocessing"] = {**fed, **changes}
        each["created_at"] = f"2026-01-{day:02}T00:00:00+00:00"
        rehash(each)
        write_sealed(Path(f"results/{file}/knn/{dataset}.json"), each)

    def names() -> list[str]:
        lines = to_markdown(collect(Path("results"), Registry())).splitlines()
        return sorted(line.split("|")[1].strip(" *") for line in lines[2:] if line.startswith("|"))

    written("plain", "mine", "a", 1)
    written("copy", "mine too", "b", 2)
    assert names() == ["mine too"]  # one model under two names: the later one
    written("small", "mine@crop=16", "a", 3, crop=16)
    assert names() == ["mine", "mine too", "mine@crop=16"]
    written("again", "mine", "a", 4, crop=24)
    board = collect(Path("results"), Registry())
    assert sorted((row.record.identity.model.name, row.path.parts[0]) for row in board.rows) == [
        ("mine", "again"),
        ("mine too", "copy"),
        ("mine@crop=16", "small"),
    ]
    assert [(path.as_posix(), reason) for path, reason in board.apart] == [
        (
            "plain/knn/a.json",
            "of other preprocessing, feature or network than the newer record again/knn/a.json",
        )
    ]


def test_a_folder_elsewhere_is_the_same_measurement(record_file: Path) -> None:
    digests = set()
    for name in ("folder:/a/b", "folder:c", "wds:x/{0..3}.tar", "digits"):
        content = json.loads(record_file.read_text())
        content["identity"]["dataset"]["name"] = name
        digests.add(Identity.model_validate(content["identity"]).digest)
        with_name = sha256_of({**content["identity"], "model": _without(content["identity"]["model"], "name")})
        for identity_sha256 in (Identity.model_validate(content["identity"]).digest, with_name):  # now, and before
            content["identity_sha256"] = identity_sha256
            write_sealed(Path("results/other/knn/x.json"), content)
            assert read_record(Path("results/other/knn/x.json")).identity.dataset.name == name
    assert len(digests) == 2


def _without(values: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key != name}


def test_a_table_says_the_same_wherever_the_results_lie(
    record_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = record_file.read_text()
    packaged = edit(record_file, lambda content: content.update(complete=False), tmp_path / "p/pixels/knn/digits.json")
    monkeypatch.setattr("massl_bench.records.rows.results_dirs", lambda own: [own, tmp_path / "p"])
    there = collect(Path("results"), Registry())
    moved = tmp_path / "elsewhere"
    (moved / "pixels/knn").mkdir(parents=True)
    (moved / "pixels/knn/digits.json").write_text(text)
    elsewhere = collect(moved.absolute(), Registry())
    for render in (to_csv, to_json, to_markdown):
        assert render(there) == render(elsewhere)
    assert "packaged/pixels/knn/digits.json: partial" in to_markdown(there)
    assert str(packaged) not in to_markdown(there)


def test_the_mean_says_what_it_leaves_out(record_file: Path, tmp_path: Path) -> None:
    registry = suite_of_two(tmp_path, ("knn", "digits"), ("spectrum", "digits"))

    def as_spectrum(content: dict[str, Any]) -> None:
        spec = registry.task("spectrum")
        content["identity"]["task"].update(
            name="spectrum", version=spec.version, spec_sha256=spec.spec_hash, protocol="spectrum", headline="rankme"
        )
        content.update(metrics={"rankme": {"value": 12.5}}, headline_scale=1)
        rehash(content)

    assert "leaves out" not in to_markdown(collect(Path("results"), registry, "two"))
    edit(record_file, as_spectrum, Path("results/pixels/spectrum/digits.json"))
    table = to_markdown(collect(Path("results"), registry, "two"))
    assert "95.78 (1/1)" in table
    assert "The mean leaves out what is no fraction that should grow: spectrum digits." in table


def test_no_mean_while_a_cell_is_missing(record_file: Path, tmp_path: Path) -> None:
    registry = suite_of_two(tmp_path, ("knn", "digits"), ("knn", "cifar10"))

    def as_cifar(content: dict[str, Any]) -> None:
        content["identity"]["dataset"]["name"] = "cifar10"
        content["metrics"]["top1@20"]["value"] = 0.5
        rehash(content)

    lines = to_markdown(collect(Path("results"), registry, "two")).splitlines()
    assert "– (1/2)" in lines[2]
    edit(record_file, as_cifar, Path("results/pixels/knn/cifar10.json"))
    lines = to_markdown(collect(Path("results"), registry, "two")).splitlines()
    assert "72.89 (2/2)" in lines[2]  # (431/450 + 0.5) / 2
