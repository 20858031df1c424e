"""`massl-bench benchmark`: what this machine reaches."""

from __future__ import annotations

from typing import Annotated

import typer

from massl_bench.cli.options import Json
from massl_bench.cli.output import print_json
from massl_bench.core.terminal import say, show
from massl_bench.pretrain.presets import preset_files

benchmark_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Measure what this machine reaches.",
    epilog="Start with: massl-bench benchmark step --help",
)


@benchmark_app.callback()
def _group() -> None:
    """Keeps `step` a command of its own while it is the only one."""


@benchmark_app.command(epilog="Example: massl-bench benchmark step --preset small-cifar10 --images 50000")
def step(
    preset: Annotated[str, typer.Option(help=f"Configuration, or a TOML file of yours: {', '.join(preset_files())}.")],
    set: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="As in batch_size=256; repeatable.")
    ] = None,
    images: Annotated[int, typer.Option(min=1, help="Of the dataset, for the hours; default: ImageNet's.")] = 1_281_167,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    as_json: Json = False,
) -> None:
    """Time pretraining's steps and views on sample images; say images/s, memory, and how long the preset will take.

    It is one process: G GPUs take about a G-th of the hours where the host keeps up.

    --json prints {config, device, images, first_step_s, step_s, views_s, images_per_s, hours, peak_bytes}.
    """
    say(f"benchmark step: preset {preset}")  # at once: torch takes longer to load
    from massl_bench.core.devices import resolve_device
    from massl_bench.pretrain.configure import load_config
    from massl_bench.pretrain.loop.reach import measure_reach

    reach = measure_reach(load_config(preset, set or []), device=resolve_device(device), images=images)
    if as_json:
        times = {"first_step_s": reach.first_s, "step_s": reach.step_s, "views_s": reach.views_s}
        rates = {"images_per_s": reach.images_per_s, "hours": reach.hours, "peak_bytes": reach.peak_bytes}
        config = reach.config.model_dump(mode="json", exclude_none=True)
        print_json({"config": config, "device": reach.device, "images": images, **times, **rates})
        return
    for line in reach.lines():
        show(line)
