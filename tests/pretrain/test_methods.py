"""Methods are found by name: the trainer and what is around it knows none, and a package can bring one."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from massl_bench.core.errors import RequestError, SpecError
from massl_bench.pretrain import methods
from massl_bench.pretrain.configure import load_config
from massl_bench.pretrain.loop.checkpoint import CheckpointFolder
from massl_bench.pretrain.loop.log import read_log
from tests.conftest import Answer
from tests.installed_packages import ROOT, example
from tests.pretrain.runs import run

Install = Callable[[dict[str, str]], Path]

KNOWS_NO_METHOD = [
    *(f"pretrain/{folder}" for folder in ("loop", "data", "presets")),
    *(f"pretrain/{name}.py" for name in ("config", "configure", "export", "backbones", "seeds", "methods/__init__")),
    "cli/pretrain.py",
    "bench/pretraining.py",
]


def test_only_a_method_s_own_file_names_it() -> None:
    package = ROOT / "massl_bench"
    found = []
    for place in KNOWS_NO_METHOD:
        path = package / place
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        assert files
        for file in files:
            text = re.sub(r"massl[-_]bench|MasslBenchError|MasslVisionTransformer", "", file.read_text())
            for name in methods.names():
                own = re.compile(rf"(?i:\b{name}(?![a-z]))|{name.capitalize()}")  # as a word, or in a class's name
                found += [f"{file.name}: {line}" for line in text.splitlines() if own.search(line)]
    assert found == []


def test_every_method_says_what_it_is() -> None:
    assert methods.names() == ["carp", "massl", "sop"]
    for name in methods.names():
        method = methods.load(name)
        assert re.search(r"arXiv \d{4}\.\d{5}$", method.paper)
        defaults = [key for key, field in method.Parameters.model_fields.items() if not field.is_required()]
        assert defaults == []


def test_an_unknown_method() -> None:
    with pytest.raises(RequestError, match="unknown method 'masl'; did you mean massl"):
        methods.load("masl")
    with pytest.raises(RequestError, match="carp is not used by the method massl"):
        load_config("tiny-digits", ["carp.block_size=1"])
    with pytest.raises(RequestError, match=r"carp: is missing, and the method needs it: carp\.num_prototypes, "):
        load_config("tiny-digits", ["method=carp"])
    config = load_config("tiny-digits", ["carp.num_prototypes=8", "carp.block_size=4", "method=carp"])
    assert config.model_dump(mode="json")["carp"] == {"num_prototypes": 8, "block_size": 4}


DINO = [
    *("method=dino", "dino.num_classes=32", "dino.student_temp=0.1", "dino.teacher_temp_start=0.04"),
    *("dino.teacher_temp=0.07", "dino.teacher_temp_warmup_epochs=1", "dino.center_momentum=0.9"),
    *("dino.frozen_epochs=1", "backbone.depth=1", "backbone.drop_path=0.1", "optimiser.warmup_epochs=0"),
    *("batch_size=32", "epochs=2", "run.log_every=1", "run.checkpoint_every=2", "run.keep_checkpoints=9"),
]


@pytest.fixture
def dino(install: Install) -> Any:
    """The module of the documentation's example: one file, and the line that declares it."""
    files = {name: text for name, text in example().items() if name.endswith(("dino.py", "__init__.py"))}
    entry = '[project.entry-points."massl_bench.methods"]\ndino = "my_bench.dino"\n'
    install({**files, "pyproject.toml": f'[project]\nname = "my-bench"\nversion = "1.0"\n{entry}'})
    assert methods.names() == ["carp", "dino", "massl", "sop"]
    return importlib.import_module("my_bench.dino")


def test_the_example_s_loss_is_the_definition(dino: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    views, images, classes = 3, 2, 5
    student, teacher = (torch.randn(n * images, classes, generator=generator) for n in (views, 2))
    center = torch.randn(classes, generator=generator)
    costs = []
    for i in range(views):
        for j in range(2):
            for b in range(images):
                if i != j:
                    q = torch.softmax((teacher[j * images + b] - center) / 0.04, 0)
                    costs.append(-(q * torch.log_softmax(student[i * images + b] / 0.1, 0)).sum())
    found = dino.dino_loss(student, teacher, center, 0.1, 0.04)
    assert found.item() == pytest.approx(torch.stack(costs).mean().item(), rel=1e-5)


def test_the_example_trains_and_resumes_bit_for_bit(dino: Any, tmp_path: Path) -> None:
    config = load_config("tiny-digits", DINO)
    run(tmp_path / "whole", config, 4)
    run(tmp_path / "cut", config, 4)
    whole, cut = (CheckpointFolder(tmp_path / name, 9) for name in ("whole", "cut"))
    first, last = (whole.load(step) for step in (2, 8))
    for step in (6, 8):
        cut.path(step).unlink()
    assert run(tmp_path / "cut", config, 4, resume=True).step == 8
    resumed = cut.load(8)
    for part in ("student", "teacher", "method"):
        assert resumed[part].keys() == last[part].keys()
        for name, tensor in last[part].items():
            assert torch.equal(resumed[part][name], tensor), name
    # The last layer stands still for an epoch of four steps, and moves then; the center moves from the first step on.
    name = "head.last.weight_v"
    start, four = whole.load(2)["student"][name], whole.load(4)["student"][name]
    assert torch.equal(start, four)
    assert not torch.equal(four, last["student"][name])
    assert first["method"]["center"].abs().sum() > 0
    lines = read_log(tmp_path / "whole")
    assert lines[0]["loss"] == lines[0]["cross_entropy"]
    assert [line["last_layer_moves"] for line in lines] == [0.0] * 4 + [1.0] * 4
    assert {"entropy_of_mean", "mean_entropy", "rankme", "teacher_temp"} <= lines[0].keys()


def test_the_example_s_command(dino: Any, run_cli: Callable[..., Answer]) -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    command = re.search(r"^massl-bench (pretrain .*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert command is not None
    changes = ("batch_size=512", "epochs=1", "dino.teacher_temp_warmup_epochs=1", "optimiser.warmup_epochs=0")
    short = ["--name", "mine", "--device", "cpu", *(part for change in changes for part in ("--set", change))]
    answer = run_cli(*shlex.split(command[1].replace("\\\n", " ")), *short)
    assert answer.code == 0, answer.err
    manifest = Path("weights/mine.toml").read_text()
    assert "Caron et al." in manifest
    assert "num_classes = 256" in manifest
    assert 'my-bench = "1.0"' in manifest


def test_a_module_without_a_method(install: Install) -> None:
    entry = '[project.entry-points."massl_bench.methods"]\nmine = "other_bench"\n'
    install(
        {"pyproject.toml": f'[project]\nname = "other-bench"\nversion = "0.3"\n{entry}', "other_bench.py": "METHOD = 1"}
    )
    with pytest.raises(SpecError, match=r"plugin other-bench 0.3 .*: METHOD is 1; expected a subclass of massl_bench"):
        methods.load("mine")


def test_a_preset_of_one_s_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    text = (ROOT / "massl_bench" / "pretrain" / "presets" / "tiny-digits.toml").read_text()
    file.write_text(text.replace("epochs = 30", "epochs = 31"))
    assert load_config(str(file)).epochs == 31
    file.write_text("epochs = ")
    with pytest.raises(RequestError, match=r"mine.toml: cannot be read: "):
        load_config(str(file))
    with pytest.raises(RequestError, match=r"preset='other.toml': no such file"):
        load_config("other.toml")
