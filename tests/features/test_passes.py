"""Several banks from one decoding of each image: to the byte what each is alone, whatever happens meanwhile."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Never

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.settings import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BlocksAndMean,
    ClassGem,
    EveryBlock,
    LastBlocks,
    Pooling,
    Preprocessing,
)
from massl_bench.datasets import DataOptions, Dataset, open_dataset, splits
from massl_bench.features import (
    ExtractionOptions,
    FeatureCache,
    Reporting,
    Wanted,
    bank_key,
    extraction,
    load_or_extract,
    loading,
)
from massl_bench.features.options import Shard
from massl_bench.models import ModelOptions, open_model
from massl_bench.models.encoder import Encoder
from massl_bench.models.networks.sharing import computed_once
from massl_bench.specs.registry import Registry
from tests.conftest import write_image
from tests.features.one_process import NUM_IMAGES, PIECE, work_in_one_pass
from tests.started import forkserver

GOLDEN = Path(__file__).parents[1] / "golden" / "official_format_checkpoint.pth"
ALONE = Shard()
POOLINGS: list[Pooling | None] = [
    None,
    ClassGem(kind="class-gem", exponent=4.0, floor=1e-6),
    EveryBlock(kind="every-block"),
    LastBlocks(kind="last-blocks", num_blocks=4, wide=768),
    BlocksAndMean(kind="blocks-and-mean", num_blocks=2),
]


def way(resize: int, mode: str, crop: int | None, scales: tuple[float, ...] = (1.0,)) -> Preprocessing:
    return Preprocessing(
        resize=resize,
        resize_mode=mode,  # type: ignore[arg-type]
        crop=crop,
        interpolation="bicubic",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        scales=scales,
    )


WAYS = [
    way(36, "shortest", 32),
    way(32, "squash", 32),
    way(48, "longest", None),
    way(48, "longest", None, (1.0, 0.7071067811865475, 0.5)),
    way(48, "longest", None, (0.5, 1.0)),
]


class Pictures:
    """Images of several sizes, one of them turned and one damaged, and the networks that see them."""

    def __init__(self, root: Path) -> None:
        sizes = [(40, 40), (60, 40), (40, 60), (33, 48), (48, 33), (64, 48), (50, 50)]
        for number, size in enumerate(sizes):
            write_image(root / "pictures" / "train" / "abc"[number % 3] / f"{number}.png", number, size)
        turned = Image.new("RGB", (48, 40), (200, 30, 90))
        exif = turned.getexif()
        exif[0x0112] = 6
        turned.save(root / "pictures" / "train" / "a" / "turned.jpg", exif=exif)
        for name in "abc":
            write_image(root / "pictures" / "test" / name / "0.png", 100, (40, 40))
        self.root, self.count = root, len(sizes) + 1
        self.options = ExtractionOptions(batch_size=3)
        vit = open_model(str(GOLDEN), Registry(), ModelOptions(cache_dir=root / "cache")).encoder("cpu")
        resnet = open_model("random:resnet10t", Registry(), ModelOptions(cache_dir=root / "cache")).encoder("cpu")
        self.encoders = [vit.pooled(pooling, 32) for pooling in POOLINGS]
        self.encoders += [resnet, resnet.pooled(POOLINGS[2], 32)]
        self._alone: dict[str, dict[str, bytes]] = {}

    def damage(self) -> None:
        place = self.root / "pictures" / "train" / "a" / "0.png"
        place.write_bytes(place.read_bytes()[:-30])
        self.options = ExtractionOptions(batch_size=3, skip_corrupt=True)

    @property
    def dataset(self) -> Dataset:
        return open_dataset(f"folder:{self.root / 'pictures'}", Registry(), DataOptions(cache_dir=self.root / "cache"))

    def wanted(self, encoder: Encoder, preprocessing: Preprocessing) -> Wanted:
        dataset = self.dataset
        key = bank_key(encoder.card, preprocessing, dataset, "train", None, self.options)
        return Wanted(key, lambda: encoder, dataset)

    def alone(self, wanted: Wanted) -> dict[str, bytes]:
        """The files of a bank that is made by itself."""
        if wanted.key.digest not in self._alone:
            cache = FeatureCache(self.root / "alone" / wanted.key.digest[:8])
            load_or_extract(cache, wanted, self.options, Reporting())
            self._alone[wanted.key.digest] = files(cache.root)
        return self._alone[wanted.key.digest]

    def together(self, cache: FeatureCache, wanted: Sequence[Wanted], reporting: Reporting = Reporting()) -> None:  # noqa: B008
        load_or_extract(cache, wanted[0], self.options, reporting, lambda: wanted[1:])


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in (root / "features").rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    found = Pictures(tmp_path_factory.mktemp("damaged"))
    found.damage()
    return found


@pytest.fixture(scope="module")
def decoded() -> Iterator[list[None]]:
    """Grows by one with each image that is decoded."""
    found, decode = list[None](), splits.decode_rgb

    def counted(*arguments: Any) -> Image.Image:
        found.append(None)
        return decode(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(splits, "decode_rgb", counted)
        yield found


KINDS = st.lists(
    st.tuples(st.integers(0, len(POOLINGS) + 1), st.integers(0, len(WAYS) - 1)), min_size=2, max_size=6, unique=True
)


@pytest.mark.parametrize("which", ["pictures", "damaged"])
def test_banks_of_one_pass_are_those_made_alone(
    which: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, decoded: list[None]
) -> None:
    """To the byte, for any choice of poolings, crops and scales, in any order; each image is decoded once."""
    pictures: Pictures = request.getfixturevalue(which)

    @settings(max_examples=10)
    @given(kinds=KINDS)
    def check(kinds: list[tuple[int, int]]) -> None:
        wanted = [pictures.wanted(pictures.encoders[encoder], WAYS[way]) for encoder, way in kinds]
        alone = [pictures.alone(each) for each in wanted]
        cache = FeatureCache(tmp_path_factory.mktemp("together"))
        decoded.clear()
        pictures.together(cache, wanted)
        assert len(decoded) == pictures.count
        assert files(cache.root) == {name: content for found in alone for name, content in found.items()}
        assert not [path for path in (cache.root / "partial").rglob("*") if path.is_file()]
        (bank, _), *_ = [cache.read(each.key) for each in wanted]
        assert bank is not None
        assert len(bank.skipped) == (which == "damaged")

    check()


def test_what_networks_have_in_common_computes_once(pictures: Pictures) -> None:
    images = torch.randn(2, 3, 32, 32)
    vit, resnet = pictures.encoders[: len(POOLINGS)], pictures.encoders[len(POOLINGS) :]
    for encoders in (vit, resnet, [vit[0], resnet[1], vit[1], vit[0]], vit[2:3]):
        expected = [encoder(images) for encoder in encoders]
        inside = {  # what a block computes first
            next(part.children())
            for encoder in encoders
            for part in encoder.network.modules()
            if type(part).__name__ in ("Block", "BasicBlock")
        }
        calls: list[torch.nn.Module] = []
        hooks = [part.register_forward_hook(lambda part, *_, calls=calls: calls.append(part)) for part in inside]
        with computed_once([encoder.network for encoder in encoders]):
            found = [encoder(images) for encoder in encoders]
        for hook in hooks:
            hook.remove()
        assert len(calls) == len(inside) == len(set(calls)) > 1
        assert all((one == other).all() for one, other in zip(found, expected, strict=True))
        assert not any("forward" in vars(part) for encoder in encoders for part in encoder.network.modules())


def test_a_block_that_is_gone_through_twice_is_not_shared() -> None:
    from timm.models.vision_transformer import VisionTransformer

    network = VisionTransformer(img_size=32, patch_size=16, embed_dim=16, depth=2, num_heads=2, num_classes=0)
    network.blocks = torch.nn.Sequential(network.blocks[0], network.blocks[0])
    images = torch.randn(2, 3, 32, 32)
    expected = network.eval()(images)
    with computed_once([network, torch.nn.Sequential(network)]):
        assert (network(images) == expected).all()


def test_a_block_keeps_the_forward_that_its_user_gave_it() -> None:
    network: Any = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=0).eval()
    for block in network.blocks:
        block.forward = partial(lambda plain, tokens: 0.5 * plain(tokens), block.forward)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        before = network(images)
        with computed_once([network, torch.nn.Sequential(network)]):
            assert torch.equal(network(images), before)
        assert torch.equal(network(images), before)
        assert len({block.forward for block in network.blocks}) == len(network.blocks)


@pytest.mark.parametrize("arch", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "resnet18"])
def test_a_network_that_changes_images_by_itself_computes_by_itself(arch: str) -> None:
    class Darker(torch.nn.Module):
        def __init__(self, inner: Any) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, images: torch.Tensor) -> Any:
            return self.inner(0.5 * images)

    network = timm.create_model(arch, num_classes=0).eval()
    images = torch.rand(1, 3, 224, 224)
    with torch.inference_mode():
        expected = network(images), network(0.5 * images)
        with computed_once([network, Darker(network)]):
            found = network(images), Darker(network)(images)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_what_is_there_is_not_made_again(pictures: Pictures, tmp_path: Path, decoded: list[None]) -> None:
    cache = FeatureCache(tmp_path)
    wanted = [pictures.wanted(encoder, WAYS[0]) for encoder in pictures.encoders[:3]]
    alone = [pictures.alone(each) for each in wanted]
    pictures.together(cache, wanted[1:2])
    assert files(tmp_path) == alone[1]
    before = cache.path(wanted[1].key).stat().st_ino
    decoded.clear()
    pictures.together(cache, wanted)
    assert len(decoded) == pictures.count
    assert cache.path(wanted[1].key).stat().st_ino == before
    assert files(tmp_path) == alone[0] | alone[1] | alone[2]

    def unasked() -> Never:
        raise AssertionError

    load_or_extract(cache, wanted[2], pictures.options, Reporting(), unasked)
    assert len(decoded) == pictures.count


def broken(encoder: Encoder, error: Callable[[torch.Tensor], torch.Tensor]) -> Encoder:
    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return error(encoder(images))

    return Encoder(Broken(), encoder.card.model_copy(update={"pooling": "broken"}))


def no_number(features: torch.Tensor) -> torch.Tensor:
    return features / 0


def no_memory(_features: torch.Tensor) -> Never:
    raise torch.OutOfMemoryError("no room")


def not_this_size(_features: torch.Tensor) -> Never:
    raise AssertionError("Input height doesn't match model")


@pytest.mark.parametrize("error", [no_number, no_memory, not_this_size])
@pytest.mark.parametrize("skip", [0, 1])
def test_what_fails_of_one_bank_fails_no_other(
    error: Callable[[torch.Tensor], torch.Tensor], skip: int, pictures: Pictures, tmp_path: Path
) -> None:
    """At once, or in the second piece."""
    calls = itertools.count()

    def later(features: torch.Tensor) -> torch.Tensor:
        return features if next(calls) < skip else error(features)

    bad = pictures.wanted(broken(pictures.encoders[0], later), WAYS[0])
    good = [pictures.wanted(pictures.encoders[number], WAYS[0]) for number in (1, 2)]
    cache = FeatureCache(tmp_path)
    pictures.together(cache, [good[0], bad, good[1]])
    assert files(tmp_path) == pictures.alone(good[0]) | pictures.alone(good[1])
    assert not list((tmp_path / "partial").rglob("*.holder"))
    with pytest.raises((CellError, torch.OutOfMemoryError, AssertionError)):
        load_or_extract(cache, bad, pictures.options, Reporting(), lambda: good)
    assert files(tmp_path) == pictures.alone(good[0]) | pictures.alone(good[1])


def test_what_cannot_be_opened_fails_its_own_bank(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, other, another = (pictures.wanted(encoder, WAYS[0]) for encoder in pictures.encoders[:3])

    def gone(*_: object) -> Never:
        raise OSError("no such file")

    without_images = replace(another.dataset, name="gone")
    monkeypatch.setitem(vars(without_images), "split", gone)
    wanted = [good, replace(other, encoder=gone), replace(another, dataset=without_images)]
    pictures.together(FeatureCache(tmp_path), wanted)
    assert files(tmp_path) == pictures.alone(good)


def test_loader_processes_bring_each_image_in_all_ways(pictures: Pictures, tmp_path: Path) -> None:
    wanted = [pictures.wanted(pictures.encoders[5], each) for each in WAYS[:3]]
    alone = [pictures.alone(each) for each in wanted]
    options = replace(pictures.options, num_workers=2)
    load_or_extract(FeatureCache(tmp_path), wanted[0], options, Reporting(), lambda: wanted[1:])
    assert files(tmp_path) == alone[0] | alone[1] | alone[2]


def test_an_image_that_one_crop_does_not_take(tmp_path: Path) -> None:
    """It is 1 pixel high: resized without a crop, it would be larger than an image may be."""
    pictures = Pictures(tmp_path)
    Image.new("RGB", (9000, 1)).save(tmp_path / "pictures" / "train" / "b" / "long.png")
    fits, does_not = (pictures.wanted(pictures.encoders[5], each) for each in (WAYS[0], way(128, "shortest", None)))
    cache = FeatureCache(tmp_path / "together")
    pictures.together(cache, [fits, does_not])
    assert files(cache.root) == pictures.alone(fits)
    with pytest.raises(CellError, match=r"long\.png: resized, it would have 128 × 1,152,000 pixels"):
        pictures.together(cache, [does_not])


def test_corrupt_images_end_the_pass_where_none_may_be_skipped(damaged: Pictures, tmp_path: Path) -> None:
    wanted = [damaged.wanted(encoder, WAYS[0]) for encoder in damaged.encoders[:2]]
    with pytest.raises(CellError, match=r"a.0\.png: "):
        load_or_extract(FeatureCache(tmp_path), wanted[0], ExtractionOptions(), Reporting(), lambda: wanted[1:])
    assert files(tmp_path) == {}


def test_no_room_for_all_crops_at_once(
    pictures: Pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[None]
) -> None:
    def check(needed: int, *_: object) -> None:
        if needed > 200 * 3 * 32 * 32:
            raise RequestError("too little shared memory")

    monkeypatch.setattr(loading, "check_shared_memory", check)
    monkeypatch.setattr(extraction, "load_images", partial(with_workers, extraction.load_images))
    pictures.options = ExtractionOptions(batch_size=64)
    try:
        small, large = (pictures.wanted(pictures.encoders[5], each) for each in (WAYS[0], way(64, "squash", 64)))
        pictures.together(FeatureCache(tmp_path), [small, large])
        assert [FeatureCache(tmp_path).path(each.key).exists() for each in (small, large)] == [True, False]
        targets = [
            extraction.Target(encoder=each.encoder(), preprocessing=each.key.preprocessing, deliver=lambda _: None)
            for each in (small, large)
        ]
        with pytest.raises(RequestError, match="too little shared memory"):
            extraction.extract(targets, small.dataset.split("train"), pictures.options, pieces=[range(4)])
    finally:
        pictures.options = ExtractionOptions(batch_size=3)


def with_workers(load: Callable[..., Any], images: Any, batches: Any, count: int, *rest: Any) -> Any:
    """Only the room of a worker is looked at: none is started."""
    loader = load(images, batches, count, *rest)
    loading._batches_ahead(1, 64 * loader.dataset.bytes_each)
    return loader


def test_what_is_true_of_all_banks_is_said_once(pictures: Pictures, tmp_path: Path) -> None:
    said, shown = list[str](), list[tuple[str, int]]()

    def progress(label: str, total: int) -> Any:
        shown.append((label, total))
        return Reporting().progress(label, total)

    wanted = [pictures.wanted(encoder, each) for encoder in pictures.encoders[:2] for each in WAYS[:2]]
    pictures.together(FeatureCache(tmp_path), wanted, Reporting(say=said.append, progress=progress))
    assert [text for text in said if "EXIF" in text] == said
    assert len(said) == 1
    assert [total for _, total in shown] == [pictures.count]


class Worker:
    """A process that makes three banks of the same images, and how it is talked to."""

    def __init__(
        self, cache: Path, order: tuple[int, ...], shard: Shard = ALONE, slow: float = 0.0, *, along: bool = True
    ) -> None:
        self._told, theirs = forkserver().Pipe()
        arguments = (theirs, cache, order, along, shard, slow)
        self.process = forkserver().Process(target=work_in_one_pass, args=arguments)
        self.process.start()
        theirs.close()

    def begin(self) -> None:
        assert self._told.recv() == "ready"
        self._told.send("go")

    def counts(self) -> tuple[int, int]:
        """How many images it decoded, and how many went through its network."""
        found: tuple[int, int] = self._told.recv()
        self.process.join(timeout=120)
        assert self.process.exitcode == 0
        return found


@pytest.fixture(scope="module")
def digits_alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the three banks when each is made by itself."""
    cache = tmp_path_factory.mktemp("alone")
    worker = Worker(cache, (0, 1, 2), along=False)
    worker.begin()
    assert worker.counts() == (3 * NUM_IMAGES // 2, 3 * NUM_IMAGES // 2)
    return files(cache)


def test_a_pass_goes_on_after_a_kill(tmp_path: Path, digits_alone: dict[str, bytes]) -> None:
    killed = Worker(tmp_path, (0, 1, 2), slow=0.1)
    killed.begin()
    while len(list((tmp_path / "partial").rglob("*.safetensors"))) < 6:
        assert killed.process.is_alive()
        time.sleep(0.02)
    killed.process.kill()
    killed.process.join()
    there = sorted(len(list(folder.glob("0*.safetensors"))) for folder in (tmp_path / "partial").glob("*/*"))
    assert 2 <= there[0] <= there[2] <= there[0] + 1
    again = Worker(tmp_path, (0, 1, 2))
    again.begin()
    decoded, seen = again.counts()
    # Of the piece that it was at, and of no other, images are decoded again, for the banks that had not got it.
    assert NUM_IMAGES // 2 - PIECE * there[2] <= decoded <= NUM_IMAGES // 2 - PIECE * there[0]
    assert seen == 3 * NUM_IMAGES // 2 - PIECE * sum(there)
    assert files(tmp_path) == digits_alone


@pytest.mark.parametrize("orders", [((0, 1, 2), (0, 1, 2)), ((0, 1, 2), (2, 1, 0))], ids=["same order", "other order"])
def test_two_processes_make_one_pass(
    orders: Sequence[tuple[int, ...]], tmp_path: Path, digits_alone: dict[str, bytes]
) -> None:
    """Each image goes through a network once for each bank, whoever wants which first."""
    together = [Worker(tmp_path, order, Shard(index, 2, 2), 0.02) for index, order in enumerate(orders)]
    for worker in together:
        worker.begin()
    counts = [worker.counts() for worker in together]
    assert sum(seen for _, seen in counts) == 3 * NUM_IMAGES // 2
    assert min(seen for _, seen in counts) >= PIECE
    # Of a piece that both come to at the same time, each may take some banks.
    assert NUM_IMAGES // 2 <= sum(decoded for decoded, _ in counts) <= NUM_IMAGES // 2 + 2 * PIECE
    assert files(tmp_path) == digits_alone
    assert [path for path in (tmp_path / "partial").rglob("*") if path.is_file()] == []
