"""Packages that are installed beside massl-bench: the example of docs/extending.md, and others that a test writes."""

from __future__ import annotations

import re
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def example() -> dict[str, str]:
    """The files of the documentation's example: a path in a line of its own, and the block of code after it."""
    text = (ROOT / "docs" / "extending.md").read_text()
    return dict(re.findall(r"^`my-bench/([^`]+)`\n\n```\w+\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


def install_package(folder: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str]) -> Path:
    """Installs a package as pip would: its modules, and beside them the entry points that its project declares."""
    project = tomllib.loads(files["pyproject.toml"])["project"]
    # Never the path of an earlier test: what Python, and this project, know of a path is kept.
    folder.mkdir(parents=True, exist_ok=True)
    site = Path(tempfile.mkdtemp(prefix=f"{project['name']}-", dir=folder))
    for name, text in files.items():
        path = site / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(site))
    return site
