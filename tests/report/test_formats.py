"""The formats of a leaderboard: what a name holds stays text in each; found by name; a table fits its terminal."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from massl_bench.core.errors import RequestError
from massl_bench.records.latex import to_latex
from massl_bench.records.markdown import escaped, to_markdown
from massl_bench.records.rows import Leaderboard, Selection, collect
from massl_bench.report.formats import FORMATS, Setting, formats
from massl_bench.specs.registry import Registry
from tests.conftest import Answer
from tests.made_records import edit, rehash

Cli = Callable[..., Answer]
ROOT = Path(__file__).parents[2]
Install = Callable[[dict[str, str]], Path]

HOSTILE = [
    "a|b", "a\nb", "# a\n# b", "<script>alert(1)</script>", "![x](https://evil.example/p.png)", "[x](javascript:1)",
    "\x1b[31mred\x1b]0;title\x07", "abc\u202egnp.exe", "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =cmd", "**bold**",
    "`code`", "~~a~~", "https://evil.example", "www.evil.example", "\\input{x}", "a & b % c $ d # e _ f { g } ~ ^",
    "&amp;", "_a_", "$x$", "猫", "a\u200bb", '"quoted", "twice"', "1. a", "＝1+1", "a--b ''c'' ,,d", "</tbody>\n<tr>",
    "</noscript><script>alert(2)</script>",
]  # fmt: skip


@pytest.fixture
def hostile_board(record_file: Path) -> Leaderboard:
    """A table of models with hostile names, and a record apart for a hostile reason."""
    for number, name in enumerate(HOSTILE):

        def named(content: dict[str, Any], name: str = name, number: int = number) -> None:
            content["identity"]["model"].update(name=name, weights_sha256=f"{number:064x}")
            rehash(content)

        edit(record_file, named, Path(f"results/m{number}/knn/digits.json"))
        edit(
            record_file,
            lambda content, name=name: content.update(departures=[name]),  # type: ignore[misc]
            Path(f"results/m{number}/x/d.json"),
        )
    return collect(Path("results"), Registry())


def setting() -> Setting:
    return Setting(registry=Registry())


@pytest.mark.faults
@pytest.mark.parametrize("name", FORMATS)
def test_a_name_is_text_in_every_format(hostile_board: Leaderboard, name: str) -> None:
    text = FORMATS[name](hostile_board, setting())
    for character in ("\x1b", "\x07", "\u202e", "\u200b", "\r"):
        assert character not in text
    markup = {"md": r"<script|(?<!\\)\]\(|[^\\]https:", "html": r"<script>alert|<img", "latex": r"^[^%]*\\input"}
    assert not re.search(markup.get(name.removesuffix("-intervals"), "(?!)"), text, flags=re.MULTILINE)
    assert all(line.isprintable() for line in text.split("\n") if name != "html")


def test_markdown_keeps_its_rows(hostile_board: Leaderboard) -> None:
    table, *rest = to_markdown(hostile_board).split("\n\n")
    lines = table.splitlines()
    assert len(lines) == 2 + len(HOSTILE) + 1
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    listed = rest[-1].splitlines()
    assert len(listed) == len(HOSTILE)
    assert all(line.startswith("- m") for line in listed)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("massl-small_cifar10", "massl-small_cifar10"),
        ("a|b", r"a\|b"),
        ("_a_", r"\_a\_"),
        ("<b>", "&lt;b&gt;"),
        ("https://a.b", r"https\://a.b"),
        ("a\nb", r"a\\nb"),
        ("- a", r"\- a"),
        ("top1@20", "top1@20"),
    ],
)
def test_what_markdown_escapes(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_no_text_in_a_csv_is_a_formula(hostile_board: Leaderboard) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](hostile_board, setting()))))
    assert len(rows) == len(HOSTILE) + 1
    for row in rows:
        for column in ("model", "task", "dataset", "record"):
            assert not row[column].lstrip().startswith(("=", "+", "-", "@", "＝"))
    assert float(rows[0]["value"]) == pytest.approx(431 / 450)


def test_json_holds_names_as_they_are(hostile_board: Leaderboard) -> None:
    rows = json.loads(FORMATS["json"](hostile_board, setting()))["rows"]
    assert {row["model"] for row in rows} == {*HOSTILE, "pixels"}


def test_latex_has_one_row_a_model(hostile_board: Leaderboard) -> None:
    for name in ("latex", "latex-intervals"):
        body = FORMATS[name](hostile_board, setting()).split("\\midrule\n")[1].split("\\bottomrule")[0]
        rows = body.splitlines()
        assert len(rows) == len(HOSTILE) + 1
        assert all(len(re.findall(r"(?<!\\)&", row)) == 1 and row.endswith(r"\\") for row in rows)
        assert not any(row.startswith(("[", "*")) for row in rows)
        assert r"a \& b \% c \$ d \# e \_ f \{ g \} \textasciitilde{} \textasciicircum{}" in body
        assert "[U+732B]" in body
        assert "a-{}-b '{}'c'{}' ,{},d" in body  # no dash, no quotes: LaTeX makes them of two characters


def test_latex_of_one_record(record_file: Path) -> None:
    board = collect(Path("results"), Registry())
    assert r"pixels & 95.78 \\" in FORMATS["latex"](board, setting())
    assert r"pixels & 95.78 \(\pm\) 1.89 \\" in FORMATS["latex-intervals"](board, setting())
    assert r"\begin{tabular}{lS[table-format=3.2]}" in FORMATS["latex"](board, setting())


def other_weights(content: dict[str, Any]) -> None:
    content["identity"]["model"].update(name="other", weights_sha256="f" * 64)


def test_an_interval_that_is_not_symmetric_is_shown_as_it_is(record_file: Path) -> None:
    def skewed(content: dict[str, Any]) -> None:
        content["metrics"]["top1@20"].update(value=0.0005, ci95=[0.0, 0.0147])

    edit(record_file, skewed)
    table = to_markdown(collect(Path("results"), Registry()))
    assert "0.05 [0.00, 1.47]" in table
    assert "±" not in table
    assert "[low, high]: the 95 % interval" in table


def test_a_rank_has_no_best(record_file: Path) -> None:
    registry = Registry()

    def as_spectrum(content: dict[str, Any]) -> None:
        spec = registry.task("spectrum")
        content["identity"]["task"].update(
            name="spectrum", version=spec.version, spec_sha256=spec.spec_hash, protocol="spectrum", headline="rankme"
        )
        content.update(metrics={"rankme": {"value": 12.5}}, curves={}, headline_scale=1)
        rehash(content)

    def other(content: dict[str, Any]) -> None:
        other_weights(content)
        rehash(content)

    first = edit(record_file, as_spectrum, Path("results/pixels/spectrum/digits.json"))
    edit(first, other, Path("results/other/spectrum/digits.json"))
    edit(record_file, other, Path("results/other/knn/digits.json"))
    table = to_markdown(collect(Path("results"), registry))
    assert table.count("**95.78") == 2
    assert "12.50" in table
    assert "**12.50" not in table


def test_a_table_fits_its_terminal(record_file: Path) -> None:
    def dataset(name: str) -> Callable[[dict[str, Any]], None]:
        def change(content: dict[str, Any]) -> None:
            content["identity"]["dataset"]["name"] = name
            rehash(content)

        return change

    for name in ("cifar10", "a-much-longer-name-of-a-dataset", "flowers", "pets", "cars"):
        edit(record_file, dataset(name), Path(f"results/pixels/knn/{name}.json"))
    board = collect(Path("results"), Registry())
    for width in (*range(24, 130, 7), 400):
        table = to_markdown(board, width).partition("\n\n±")[0]
        if width >= 60:  # a model and the widest column stand beside each other
            assert max(map(len, table.splitlines())) <= width
        assert table.count("95.78") == 6
    assert to_markdown(board, 400) == to_markdown(board)


def test_filters(record_file: Path) -> None:
    def other(content: dict[str, Any]) -> None:
        other_weights(content)
        rehash(content)

    edit(record_file, other, Path("results/other/knn/digits.json"))
    edit(record_file, lambda content: content.update(complete=False), Path("results/other/knn/partial.json"))

    def models(**selection: Any) -> list[str]:
        board = collect(Path("results"), Registry(), selection=Selection(**selection))
        return [row.record.identity.model.name for row in board.rows]

    assert models() == ["other", "pixels"]
    assert models(models=["pix*"]) == ["pixels"]
    assert models(tasks=["knn"], models=["other", "pixels"]) == ["other", "pixels"]
    board = collect(Path("results"), Registry(), selection=Selection(metric="top1@10", models=["pixels"]))
    assert [row.metric for row in board.rows] == ["top1@10"]
    assert len(board.apart) == 1
    for wrong, message in (
        ({"models": ["pixel"]}, "unknown model of a record 'pixel'; did you mean pixels"),
        ({"tasks": ["linear"]}, "unknown task of a record 'linear'; known: knn"),
        ({"metric": "top1@21"}, "unknown metric of a record 'top1@21'; did you mean top1@20"),
    ):
        with pytest.raises(RequestError, match=re.escape(message)):
            models(**wrong)


def test_filters_of_the_command(
    run_cli: Cli, record_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    packaged = edit(record_file, lambda content: content, tmp_path / "p/old/knn/digits.json")
    monkeypatch.setattr("massl_bench.records.rows.results_dirs", lambda own: [own, tmp_path / "p"])
    edit(packaged, lambda content: content.update(complete=False))
    assert "packaged/old/knn/digits.json" in run_cli("leaderboard").out
    assert "packaged" not in run_cli("leaderboard", "--no-bundled").out
    rows = json.loads(run_cli("leaderboard", "--json", "--metric", "top1@10", "--model", "pix*,nobody*").out or "{}")
    assert rows == {}
    rows = json.loads(run_cli("leaderboard", "--json", "--metric", "top1@10", "--model", "pix*").out)
    assert [row["metric"] for row in rows["rows"]] == ["top1@10"]


def test_a_plugin_adds_a_format(run_cli: Cli, install: Install, record_file: Path) -> None:
    site = install(
        {
            "pyproject.toml": '[project]\nname = "my-bench"\nversion = "1"\n'
            '[project.entry-points."massl_bench.formats"]\nlist = "my_bench"\n',
            "my_bench.py": "def write(board, setting):\n"
            "    return ''.join(f'{row.record.identity.model.name} {row.shown.value:.4f}\\n' for row in board.rows)\n",
        }
    )
    assert run_cli("leaderboard", "--format", "list").out == "pixels 0.9578\n"
    assert "list" in formats()
    assert "unknown format 'lst'; did you mean list" in run_cli("leaderboard", "--format", "lst").error
    (site / "my_bench.py").write_text("written = 3\n")
    import sys

    del sys.modules["my_bench"]
    answer = run_cli("leaderboard", "--format", "list")
    assert answer.code == 2
    expected = "plugin my-bench 1 (massl_bench.formats: list = my_bench): the module has no write; a format has write"
    assert expected in answer.error


def test_where_a_table_is_written(run_cli: Cli, record_file: Path, tmp_path: Path) -> None:
    import os

    (tmp_path / "real.md").write_text("old")
    (tmp_path / "link.md").symlink_to(tmp_path / "real.md")
    assert run_cli("leaderboard", "--out", tmp_path / "link.md").code == 0
    assert (tmp_path / "link.md").is_symlink()
    assert "95.78" in (tmp_path / "real.md").read_text()
    assert run_cli("leaderboard", "--out", tmp_path / "link.md", "--check").code == 0
    answer = run_cli("leaderboard", "--out", "/dev/full")
    assert (answer.code, answer.error) == (
        1, "error: --out /dev/full: could not be written: No space left on device",
    )  # fmt: skip
    assert Path("/dev/full").is_char_device()
    (tmp_path / "loop.md").symlink_to(tmp_path / "loop.md")
    assert "symbolic links" in run_cli("leaderboard", "--out", tmp_path / "loop.md").error
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert run_cli("leaderboard", "--out", tmp_path / "pipe").code == 0
    assert b"95.78" in os.read(reader, 65536)
    os.close(reader)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.slow
@pytest.mark.parametrize("intervals", [False, True])
def test_latex_compiles(tmp_path: Path, hostile_board: Leaderboard, intervals: bool) -> None:
    """Of the committed records and of hostile names, with the packages that the table's head names."""
    if shutil.which("pdflatex") is None:
        pytest.skip("no pdflatex on this machine: apt install texlive-latex-recommended texlive-science")
    if subprocess.run(["kpsewhich", "siunitx.sty"], check=False, capture_output=True).returncode:
        pytest.skip("LaTeX is without siunitx: apt install texlive-science")
    own, suite = (collect(ROOT / "results", Registry(), name) for name in (None, "quick"))
    tables = [to_latex(board, intervals=intervals) for board in (own, suite, hostile_board)]
    document = "\n".join([
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\usepackage{siunitx}",
        r"\sisetup{mode=match, reset-text-series=false}\begin{document}", *tables, r"\end{document}",
    ])  # fmt: skip
    (tmp_path / "tables.tex").write_text(document)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    answer = subprocess.run(command, cwd=tmp_path, check=False, capture_output=True, text=True, errors="replace")
    assert answer.returncode == 0, answer.stdout[-2000:]
    assert (tmp_path / "tables.pdf").read_bytes().startswith(b"%PDF")
