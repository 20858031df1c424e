"""Services that draw a log's numbers as curves: TensorBoard where it is installed, Weights & Biases where asked for."""

from __future__ import annotations

import importlib
import importlib.util
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from massl_bench.core.errors import RequestError, one_line
from massl_bench.core.files import write_atomic
from massl_bench.pretrain.config import PretrainConfig

_WANDB_ID = "wandb-id"


class Tracker(Protocol):
    """A service that draws curves."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Records the numbers of one step."""

    def close(self, *, failed: bool) -> None:
        """Writes out what is held back and says how the run ended."""


def open_trackers(folder: Path, config: PretrainConfig, *, first_step: int, logged: int) -> list[Tracker]:
    """Returns the trackers of a run, going on where an earlier process of it ended.

    Args:
        folder: of the run.
        config: of the pretraining; `run.wandb` is the project of Weights & Biases.
        first_step: where this process starts.
        logged: steps up to which earlier processes wrote numbers: beyond `first_step` where one was killed.

    Raises:
        RequestError: wandb is asked for and is not installed, or cannot start.
    """
    trackers: list[Tracker] = []
    if importlib.util.find_spec("tensorboard") is not None:
        trackers.append(_TensorBoard(folder, first_step))
    if config.run.wandb is not None:
        trackers.append(_WeightsAndBiases(folder, config, config.run.wandb, logged))
    return trackers


def require_wandb(config: PretrainConfig) -> None:
    """Raises `RequestError` where a configuration asks for wandb and it is not installed."""
    if config.run.wandb is not None and importlib.util.find_spec("wandb") is None:
        raise RequestError(
            f"run.wandb: {config.run.wandb}, but wandb is not installed; pip install 'massl-bench[track]', or leave "
            "the switch out: log.jsonl holds the same numbers"
        )


class _TensorBoard:
    """Event files under `tensorboard/`; one process adds one file."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # TensorBoard passes over what earlier files hold from this step on: those steps are done again.
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, failed: bool) -> None:
        del failed  # curves have no ending
        self._writer.close()


class _WeightsAndBiases:
    """A run of Weights & Biases: one for all processes of a pretraining, by the id in `wandb-id`.

    A service that only appends cannot take back the steps that a killed process wrote after its last checkpoint. They
    are computed again with the same values, and are not sent again.
    """

    def __init__(self, folder: Path, config: PretrainConfig, project: str, logged: int) -> None:
        require_wandb(config)
        wandb: Any = importlib.import_module("wandb")
        file = folder / _WANDB_ID
        known = file.is_file()
        if not known:
            write_atomic(file, secrets.token_hex(4))
        self._sent = logged if known else 0
        try:
            self._run: Any = wandb.init(
                project=project,
                name=folder.name,
                id=file.read_text(encoding="utf-8"),
                resume="allow",
                dir=str(folder),
                config=config.model_dump(mode="json", exclude_none=True),
            )
        except wandb.Error as error:
            raise RequestError(
                f"run.wandb: {project}: {one_line(error)}; wandb login, or WANDB_MODE=offline to send the run later"
            ) from None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._sent:
            self._run.log(dict(values), step=step)

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))
