"""Every layout, alike: loaded exactly, under its own preprocessing; what is beside it is named; identities differ."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings, PreprocessingChange
from massl_bench.core.settings import Preprocessing
from massl_bench.models.adapters import adapters
from massl_bench.models.card import ModelCard
from massl_bench.models.checkpoints import build_checkpoint, describe_content
from massl_bench.models.content import Content
from massl_bench.models.encoder import Encoder
from massl_bench.models.files import open_content
from massl_bench.models.loading import fill, mismatches
from massl_bench.models.outline import Outline
from massl_bench.models.reading import load_all
from massl_bench.models.recognition import recognise
from tests.models.layouts import Layout, Made, layouts

LAYOUTS = layouts()
REFUSED = {"capi", "clip_resnet", "fsdp_shard"}
"""Adapters that know a layout to say why it is not loaded: each has a test of its own."""

EACH = pytest.mark.parametrize("name", LAYOUTS)
PUBLISHED = [(name, size) for name, layout in LAYOUTS.items() for size in layout.published]

_made: dict[str, tuple[Made, Encoder]] = {}


@pytest.fixture
def made(name: str, layout_file: Callable[[str], Made]) -> tuple[Made, Encoder]:
    """The layout's file and its encoder: made once, and only read by tests."""
    if name not in _made:
        file = layout_file(name)
        _made[name] = file, build_checkpoint(file.path, "x", file.settings)
    return _made[name]


def images(side: int) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(side))


def test_every_adapter_has_a_layout() -> None:
    assert {layout.adapter for layout in LAYOUTS.values()} == set(adapters()) - REFUSED


@EACH
def test_the_features_are_those_of_the_source(name: str, made: tuple[Made, Encoder]) -> None:
    file, encoder = made
    for side in (file.side, file.other_side):
        if side is not None:
            expected = file.source(images(side))
            assert expected.std() > 1e-3
            scale = float(expected.abs().max())
            torch.testing.assert_close(encoder(images(side)) / scale, expected / scale, rtol=0, atol=file.tolerance)


def tensors_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor that a network holds: parameters, buffers, stored or not, and what is kept as a plain attribute."""
    found = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    for place, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor):
                found[f"{place}.{name}"] = value
    return found


@EACH
def test_what_is_in_no_file_is_computed(name: str, made: tuple[Made, Encoder]) -> None:
    """What a file does not hold (windows, rotations, tables) is as in a network that is built in the usual way."""
    file, encoder = made
    described = describe_content(open_content(file.path), file.settings, "x").network
    usual, held = tensors_of(described.build()), tensors_of(encoder.backbone)
    stored = encoder.backbone.state_dict()
    assert held.keys() == usual.keys()
    for place, tensor in held.items():
        assert not tensor.is_meta, place
        assert tensor.is_contiguous(), place
        if place not in stored:
            torch.testing.assert_close(tensor, usual[place], rtol=0, atol=0, msg=place)
        else:
            assert tensor.dtype == usual[place].dtype, place
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, place


@EACH
def test_a_network_of_one_size_takes_no_other(name: str, made: tuple[Made, Encoder]) -> None:
    file, encoder = made
    if file.other_side is None:
        with pytest.raises((RuntimeError, AssertionError, RequestError)):
            encoder(images(file.side * 2))


@EACH
def test_heads_patch_size_and_preprocessing_are_as_made(name: str, made: tuple[Made, Encoder]) -> None:
    file, encoder = made
    card = encoder.card
    assert (card.network.get("heads"), card.network.get("patch")) == (file.heads, file.patch)
    assert (card.preprocessing.crop, card.preprocessing.mean, card.preprocessing.std) == (
        *(file.crop, file.mean, file.std),
    )
    assert card.origins["weights"] == f"adapter {LAYOUTS[name].adapter}"
    assert set(card.left_out) >= file.left_out
    assert card.embed_dim == encoder(images(file.side)).shape[1]


@EACH
def test_a_twin_is_taken_where_it_is_asked_for(name: str, made: tuple[Made, Encoder]) -> None:
    file, encoder = made
    for key, source in file.twins.items():
        twin = build_checkpoint(file.path, "x", file.settings.model_copy(update={"checkpoint_key": key}))
        expected = source(images(file.side))
        scale = float(expected.abs().max())
        torch.testing.assert_close(twin(images(file.side)) / scale, expected / scale, rtol=0, atol=file.tolerance)
        assert feature_key(twin.card) != feature_key(encoder.card)
        assert twin.card.name != encoder.card.name


def feature_key(card: ModelCard) -> tuple[str, str, str, Preprocessing]:
    """What of a model is in the key of its features."""
    return card.weights_sha256, card.network_sha256, card.pooling, card.preprocessing


@EACH
def test_another_place_is_the_same_model(name: str, made: tuple[Made, Encoder], tmp_path: Path) -> None:
    file, encoder = made
    copy = tmp_path / "another"
    if file.path.is_dir():
        shutil.copytree(file.path, copy)
    else:
        copy = copy.with_suffix(file.path.suffix)
        shutil.copyfile(file.path, copy)
    assert feature_key(build_checkpoint(copy, "y", file.settings).card) == feature_key(encoder.card)


@EACH
def test_what_differs_in_one_thing_has_another_key(name: str, made: tuple[Made, Encoder]) -> None:
    file, _ = made
    changes: list[dict[str, Any]] = [
        {},
        {"img_size": file.side * 2} if file.other_side is not None else {"preprocessing": _change(crop=file.crop - 2)},
        {"preprocessing": _change(mean=(0.1, 0.2, 0.3))},
        {"preprocessing": _change(std=(0.1, 0.2, 0.3))},
        {"preprocessing": _change(interpolation="nearest")},
    ]
    if file.heads is not None and file.settings.num_heads is not None:
        changes.append({"num_heads": file.heads * 2})
    cards = [build_checkpoint(file.path, "x", file.settings.model_copy(update=each)).card for each in changes]
    for (first, one), (second, other) in itertools.combinations(zip(changes, cards, strict=True), 2):
        assert feature_key(one) != feature_key(other), (first, second)
        assert one.name != other.name, (first, second)


def _change(**named: Any) -> PreprocessingChange:
    return PreprocessingChange.model_validate(named)


def state_dicts(value: Any) -> list[dict[str, Any]]:
    """The state dicts inside nested containers."""
    if not isinstance(value, dict):
        return []
    if value and all(isinstance(key, str) and isinstance(each, torch.Tensor) for key, each in value.items()):
        return [value]
    return [found for each in value.values() for found in state_dicts(each)]


State = dict[str, torch.Tensor]
CHANGES: dict[str, Callable[[State, str], object]] = {
    "an unknown tensor": lambda state, name: state.update({f"{name.rpartition('.')[0]}.unknown.weight": torch.ones(3)}),
    "one missing": lambda state, name: state.pop(name),
    "not finite": lambda state, name: state.update({name: _with_nan(state[name])}),
    "constant": lambda state, name: state.update({name: torch.full_like(state[name], 0.5)}),
    "another shape": lambda state, name: state.update({name: torch.randn(5, 7)}),
}


def _with_nan(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[0] = torch.nan
    return changed


def weights_in(state: State, content: Content, settings: ModelSettings) -> list[str]:
    """The names of the weights of layers that the evaluated network has in a state dict, without its first and last."""
    found = recognise(content, settings, "x").found
    inner = [f"{found.weights.prefix}{name}" for name, tensor in found.tensors.items() if len(tensor.shape) >= 2]
    return [name for name in state if any(name == each or name.endswith(f".{each}") for each in inner[1:-1])]


@EACH
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_exactly_the_layout_is_refused(name: str, change: str, made: tuple[Made, Encoder]) -> None:
    content = _loaded(name, made[0])
    changed = {id(state): weights_in(state, content, made[0].settings) for state in state_dicts(content.tree)}
    for state in state_dicts(content.tree):
        names = changed[id(state)]
        if names:
            CHANGES[change](state, names[len(names) // 2])
    content = content.with_tree(content.tree)
    with pytest.raises(RequestError) as error:
        filled_from(content, made[0].settings)
    assert "\n" not in str(error.value)
    if change == "an unknown tensor":
        assert " arch=" not in str(error.value)


_loaded_trees: dict[str, Any] = {}


def _loaded(name: str, file: Made) -> Content:
    """A layout's file with its tensors' values, read once: containers are copied, tensors are not to be changed."""
    content = open_content(file.path)
    if name not in _loaded_trees:
        _loaded_trees[name] = load_all(content.tree, "x")
    return Content(
        file=content.file, tree=_copied(_loaded_trees[name]), metadata=content.metadata, folder=content.folder
    )


def filled_from(content: Content, settings: ModelSettings) -> torch.nn.Module:
    """The network of a file that is already read."""
    described = describe_content(content, settings, "x")
    return fill(described.network, described.recognised.found.tensors, "x")


def _copied(value: Any) -> Any:
    return {key: _copied(each) for key, each in value.items()} if isinstance(value, dict) else value


@pytest.mark.parametrize(("name", "size"), PUBLISHED)
def test_published_shapes(name: str, size: str) -> None:
    layout: Layout = LAYOUTS[name]
    expected = layout.published[size]
    content = Content(file=Path("x.pth"), tree=expected.content())
    described = describe_content(content, ModelSettings(), "x")
    assert described.recognised.adapter.name == layout.adapter
    with torch.device("meta"), Outline():
        network: Any = described.network.build()
    assert described.network.architecture.startswith(expected.arch)
    tensors = described.recognised.found.tensors
    if described.network.rename is None:
        assert mismatches(network.state_dict(), tensors) == []
    assert described.network.preprocessing.crop == expected.crop
    if expected.heads is not None:
        assert network.blocks[0].attn.num_heads == expected.heads


@EACH
def test_one_adapter_alone_has_it(name: str, made: tuple[Made, Encoder]) -> None:
    file, _ = made
    assert recognise(open_content(file.path), file.settings, "x").adapter.name == LAYOUTS[name].adapter
