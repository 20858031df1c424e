"""Names that are not quite a layout's, in every layout: advice that works, decoys, twins that are not taken unasked."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from massl_bench.core.errors import RequestError
from massl_bench.models.checkpoints import describe_content
from massl_bench.models.content import Content
from massl_bench.models.loading import fill
from massl_bench.models.recognition import Recognised, recognise
from tests.models.layouts import Made, layouts
from tests.models.loaded import State, loaded, with_states

LAYOUTS = layouts()
EACH = pytest.mark.parametrize("name", LAYOUTS)
Files = Callable[[str], Made]


def read(content: Content, file: Made, key: str | None = None) -> Recognised:
    return recognise(content, file.settings.model_copy(update={"checkpoint_key": key}), "x")


def taken(recognised: Recognised) -> set[int]:
    """Which tensors were taken, whatever they are called."""
    return {id(tensor) for tensor in recognised.found.tensors.values()}


WRAPPERS = ("module.", "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


@EACH
@settings(max_examples=3, phases=(Phase.generate,))
@given(wrappers=st.lists(st.sampled_from(WRAPPERS), min_size=1, max_size=3))
def test_wrappers_change_nothing(name: str, wrappers: list[str], layout_file: Files) -> None:
    file = layout_file(name)
    content = loaded(file.path)
    prefix = "".join(wrappers)
    wrapped = with_states(content, lambda state: {f"{prefix}{each}": tensor for each, tensor in state.items()})
    expected, found = read(content, file), read(wrapped, file)
    assert found.adapter.name == expected.adapter.name
    assert found.found.tensors.keys() == expected.found.tensors.keys()
    assert taken(found) == taken(expected)


MANGLED = ("wrapper.", "my.inner.net.", "decoy.backbone.", "student.", "encoder2.", "teacher.model.")


def mangled(content: Content, file: Made, how: str, word: str) -> Content:
    """A file with a word before all names, in place of the evaluated network's prefix, or behind that."""
    prefix = read(content, file).found.weights.prefix

    def change(state: State) -> State:
        if how == "before all":
            return {f"{word}{name}": tensor for name, tensor in state.items()}
        new = word if how == "in place" else f"{prefix}{word}"
        names = {name: re.sub(rf"^((?:module\.)*){re.escape(prefix)}", rf"\g<1>{new}", name) for name in state}
        return {names[name]: tensor for name, tensor in state.items()}

    return with_states(content, change)


def advised(content: Content, error: str) -> Content | None:
    """The file as the message says to save it; None where it does not say."""
    found = re.search(r"under the key (\S+), a network", error)
    key = found[1] if found else ""
    exchange = re.search(r"save the tensors with (\S+) in place of (\S+) at the beginning", error)
    without = re.search(r"removeprefix\('(\S+)'\)", error)
    if exchange is None and without is None:
        return None
    new, old = exchange.groups() if exchange is not None else ("", without[1])
    alone = "of the names that begin with it" in error
    state = content.state(key)
    renamed = {
        f"{new}{n.removeprefix(old)}" if n.startswith(old) else n: t
        for n, t in state.items()
        if n.startswith(old) or not alone
    }
    whole = {**content.tree, key: renamed} if key and not alone else renamed
    return Content(file=content.file, tree=whole, folder=content.folder)


@EACH
@settings(max_examples=3, phases=(Phase.generate,))
@given(how=st.sampled_from(("before all", "in place", "behind")), word=st.sampled_from(MANGLED))
def test_advice_on_a_prefix_is_right(name: str, how: str, word: str, layout_file: Files) -> None:
    file = layout_file(name)
    content = loaded(file.path)
    evaluated, changed = taken(read(content, file)), mangled(content, file, how, word)
    try:
        described = describe_content(changed, file.settings, "x")
        fill(described.network, described.recognised.found.tensors, "x")
    except RequestError as error:
        text = str(error)
    else:
        assert taken(described.recognised) == evaluated
        return
    assert "\n" not in text
    assert not re.search(r"\barch\b", text)
    better = advised(changed, text)
    if better is None:  # a layout that is known, but for what the message names
        assert re.search(r"begin with|unexpected|missing|not those|which is meant|cannot be inferred", text), text
        return
    described = describe_content(better, file.settings, "x")
    assert taken(described.recognised) == evaluated, text
    fill(described.network, described.recognised.found.tensors, "x")


def raw_names(content: Content, file: Made) -> tuple[Recognised, str, str]:
    """(What is evaluated of a file, the prefix of its names, the name of one of its weights behind that)."""
    found = read(content, file)
    inner = [name for name, tensor in found.found.tensors.items() if len(tensor.shape) >= 2]
    return found, found.found.weights.prefix, inner[len(inner) // 2]


def with_decoys(content: Content, evaluated: set[int], names: list[str]) -> Content:
    """A file with tensors of these names beside those that are evaluated, behind the wrapper of all if there is one."""

    def change(state: State) -> State:
        if evaluated.isdisjoint(map(id, state.values())):
            return state
        wrapper = "module." if all(name.startswith("module.") for name in state) else ""
        return {**state, **{f"{wrapper}{name}": torch.randn(3, 5) for name in names}}

    return with_states(content, change)


@EACH
def test_decoys_that_the_layout_names_are_left_out(name: str, layout_file: Files) -> None:
    file = layout_file(name)
    content = loaded(file.path)
    found, prefix, inner = raw_names(content, file)
    adapter = found.adapter
    inside = adapter.inside(content) if callable(adapter.inside) else adapter.inside
    others = [each for each in adapter.beside if prefix and each.endswith(".") and not each.startswith(prefix)]
    decoys = [f"{each.replace('*', 'x')}{prefix}{inner}" for each in others]
    decoys += [f"{prefix}{each.replace('*', '0')}{inner}" for each in inside if each.endswith(".")]
    refused: list[str] = []
    for decoy in decoys:
        changed = with_decoys(content, taken(found), [decoy])
        try:
            again = read(changed, file)
        except RequestError:  # such a name makes it another layout's file too, or half a one
            refused.append(decoy)
        else:
            assert taken(again) == taken(found), decoy
            assert sum(map(len, again.left_out.values())) > sum(map(len, found.left_out.values())), decoy
    assert len(refused) <= len(decoys) // 2, refused


@EACH
def test_decoys_that_nobody_names_are_refused(name: str, layout_file: Files) -> None:
    file = layout_file(name)
    content = loaded(file.path)
    found, prefix, inner = raw_names(content, file)
    for decoy in (f"decoy.{prefix}{inner}", f"{prefix}decoy.{inner}", f"{prefix.rstrip('.')}x.{inner}"):
        changed = with_decoys(content, taken(found), [decoy])
        with pytest.raises(RequestError) as error:
            filled(changed, file)
        text = str(error.value)
        assert "decoy" in text or "x." in text or "not the one" in text, text
        assert not re.search(r"\barch\b", text)
        assert "\n" not in text


def filled(content: Content, file: Made) -> None:
    described = describe_content(content, file.settings, "x")
    fill(described.network, described.recognised.found.tensors, "x")


@EACH
def test_a_twin_is_never_taken_unasked(name: str, layout_file: Files) -> None:
    file = layout_file(name)
    content = loaded(file.path)
    found = read(content, file)
    for key in file.twins:
        twin = read(content, file, key)
        assert taken(twin).isdisjoint(taken(found))
        gone = with_states(
            content,
            lambda state: {each: tensor for each, tensor in state.items() if id(tensor) not in taken(found)},
        )
        emptied = [each for each in gone.keys if gone.value(each) == {}]
        rest = gone.with_tree({each: value for each, value in gone.tree.items() if each not in emptied})
        with pytest.raises(RequestError) as error:
            filled(rest, file)
        assert not re.search(r"\barch\b", str(error.value))
        assert taken(read(rest, file, key)) == taken(twin)
