"""Texts name settings as their reader gives them."""

from __future__ import annotations

import pytest

import massl_bench as mb
from massl_bench.core.errors import RequestError, unknown_name
from massl_bench.core.wording import asked, of_task, option, options_are_read, parameter, parameters


@pytest.mark.parametrize(
    ("name", "value", "in_python", "as_option"),
    [
        ("img_size", 224, "img_size=224", "--img-size 224"),
        ("arch", "vit_small", "arch='vit_small'", "--arch vit_small"),
        ("config", "NAME", "config=NAME", "--config NAME"),
        ("num_workers", 0, "num_workers=0", "--workers 0"),
        ("arch", None, "arch", "--arch"),
        ("force", None, "force=True", "--force"),
        ("limit", "train=100", "limit={'train': 100}", "--limit train=100"),
        ("limit", "train=…", "limit={'train': …}", "--limit train=…"),
        ("splits", "test=validation", "splits={'test': 'validation'}", "--split test=validation"),
        ("preprocessing", "mean=0.5,0.5,0", "preprocessing={'mean': [0.5, 0.5, 0]}", "--preprocessing mean=0.5,0.5,0"),
        ("params", "knn.k=10,20", "params={'knn': {'k': [10, 20]}}", "--set knn.k=10,20"),
        ("params", "knn.headline=top1@10", "params={'knn': {'headline': 'top1@10'}}", "--set knn.headline=top1@10"),
        ("params", "knn.k, knn.headline", "params knn.k, knn.headline", "--set knn.k, knn.headline"),
        ("settings", "compute.compile=false", "settings={'compute.compile': False}", "--set compute.compile=false"),
    ],
)  # fmt: skip
def test_a_setting_in_both_ways(name: str, value: object, in_python: str, as_option: str) -> None:
    assert asked(name, value) == in_python
    assert option(name, value) == as_option
    with options_are_read():
        assert asked(name, value) == as_option
    assert asked(name, value) == in_python


def test_parameters_of_the_task_at_hand() -> None:
    assert parameters(k="10,20", headline="top1@20") == "k=[10, 20], headline='top1@20'"
    assert of_task(f"lower {parameter('lr')}", "linear") == "lower lr"
    with options_are_read():
        assert of_task(parameters(k="10,20", headline="top1@20"), "knn") == (
            "--set knn.k=10,20 --set knn.headline=top1@20"
        )
        assert of_task(f"lower {parameter('lr')}", "linear") == "lower --set linear.lr"


def test_errors_carry_their_parts() -> None:
    error = RequestError(where="a.pth", field="img_size", found=7, allowed="224 alone", remedy="leave it out")
    assert str(error) == "a.pth: img_size=7: expected 224 alone; leave it out"
    assert (error.where, error.field, error.found) == ("a.pth", "img_size", 7)
    assert (error.allowed, error.remedy) == ("224 alone", "leave it out")
    with options_are_read():
        same = RequestError("too few", field="img_size", found=7)
    assert str(same) == "--img-size 7: too few"
    unknown = unknown_name("task", "kn", ["knn", "linear"])
    assert (unknown.found, unknown.allowed, unknown.remedy) == ("kn", "knn, linear", "did you mean knn?")


def test_advice_to_python_works() -> None:
    X, y = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0, 1, 1]
    with pytest.raises(mb.RequestError, match=r"allowed up to 3: k=3, headline='top1@3'") as caught:
        mb.evaluate("knn", train=(X, y), test=(X, y), k=20)
    assert "--" not in str(caught.value)
    assert mb.evaluate("knn", train=(X, y), test=(X, y), k=3, headline="top1@3").headline_name == "top1@3"
    with pytest.raises(mb.RequestError, match="device='gpu': expected auto, cpu, cuda or cuda:i"):
        mb.load_encoder("pixels", device="gpu")
