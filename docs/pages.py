"""Pages of the site that are made from the code: the command line, the Python interface, every task's numbers."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

import massl_bench


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages; mkdocs calls it when it has found the others."""
    pages = {"commands": commands(), "python": python(), "tasks": tasks()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    files.append(File.generated(config, "tour.md", content=tour()))
    return files


def tour() -> str:
    """Returns the tour as a page: its cells are `# %%`, or `# %% [markdown]`."""
    pages = []
    text = (Path(__file__).parent / "tour.py").read_text(encoding="utf-8")
    for cell in re.split("^# %%", text, flags=re.MULTILINE)[1:]:  # the text names the mark, too
        head, _, body = cell.partition("\n")
        if "[markdown]" in head:
            pages.append("\n".join(line.removeprefix("#").removeprefix(" ") for line in body.strip().splitlines()))
        else:
            pages.append(f"```python\n{body.strip()}\n```")
    return "\n\n".join(pages) + "\n"


def commands() -> str:
    """Returns the page of the command line."""
    import typer

    from massl_bench.cli.application import COMMANDS, app, load_command

    root: Any = typer.main.get_command(app)
    root.commands = {name: load_command(name) for name in COMMANDS}
    return "# The command line\n\n" + "".join(_command(root, "massl-bench", 2))


def _command(command: Any, name: str, level: int) -> Iterator[str]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    if level > 2 or not inner:
        yield f"{'#' * level} `{name}`\n\n"
    if command.help:
        yield f"{_text(inspect.cleandoc(command.help))}\n\n"
    options = [parameter for parameter in command.params if parameter.name != "help"]
    if options and not inner:
        yield "| option | meaning |\n|---|---|\n"
        for option in options:
            shown = (
                " ".join((*option.opts, *option.secondary_opts)) if option.opts[0][0] == "-" else option.name.upper()
            )
            yield f"| `{shown}` | {_text(getattr(option, 'help', None) or '').replace('|', chr(92) + '|')} |\n"
        yield "\n"
    if command.epilog and not inner:
        yield f"{_text(command.epilog)}\n\n"
    for each in inner.values():
        yield from _command(each, f"{name} {each.name}", 2 if level == 2 else level + 1)


def python() -> str:
    """Returns the page of the Python interface: what the package exports."""
    lines = ["# The Python interface\n\n", "`import massl_bench as mb`; the names load when they are first used.\n\n"]
    for name in sorted(massl_bench.__all__):
        # `pretrain` is a part too, and what calling it calls.
        home = massl_bench._HOMES.get(name, "bench.training")
        lines.append(f"::: massl_bench.{home}.{name}\n\n")
    return "".join(lines)


def tasks() -> str:
    """Returns the page of all tasks with their numbers."""
    from massl_bench.specs.registry import Registry

    registry = Registry()
    lines = ["# Tasks\n\n"]
    for name in registry.tasks:
        task = registry.task(name)
        lines.append(f"## `{name}`\n\n{_text(task.summary)}.\n\n")
        lines.append(
            f"Version {task.version}; for {', '.join(task.kinds)}; headline `{task.headline}`; seed {task.seed}.\n\n"
        )
        lines.append("| parameter | value |\n|---|---|\n")
        lines += [f"| `{key}` | {_text(_shown(value))} |\n" for key, value in task.params.items()]
        lines.append(f"\n{_text(task.citation)}\n\n")
    return "".join(lines)


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _text(text: str) -> str:
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("*", "\\*").replace("_", "\\_")
