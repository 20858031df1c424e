"""Which layout a file has, which of its sets of weights is meant, and what of it is left out; never a guess."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from massl_bench.core.errors import RequestError
from massl_bench.core.model_settings import ModelSettings
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Weights
from massl_bench.models.adapters import adapters
from massl_bench.models.content import STATE_KEY, Content, Stored, beginnings, is_stored, listed
from massl_bench.models.loading import check_outline
from massl_bench.models.nearest import advice, nearest

_TRAINING = {
    "optimizer": "optimizer",
    "optimiser": "optimizer",
    "optim": "optimizer",
    "opt": "optimizer",
    "optimizers": "optimizer",
    "optimizer_states": "optimizer",
    "optimizer_state_dict": "optimizer",
    "scaler": "loss scaler",
    "fp16_scaler": "loss scaler",
    "amp": "loss scaler",
    "loss_scaler": "loss scaler",
    "lr_scheduler": "schedule",
    "lr_schedulers": "schedule",
    "scheduler": "schedule",
    "callbacks": "callbacks",
    "loops": "loops",
    "loss": "loss",
    "criterion": "loss",
    "rng_state": "random state",
    "rng_states": "random state",
    "random_state": "random state",
}
"""What trainers keep beside weights, whatever the method: their keys at the top, and what they are."""


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """A file's layout, and the backbone in it.

    Attributes:
        adapter: which layout.
        found: the backbone's tensors.
        left_out: names that are not taken, by what they are.
    """

    adapter: Adapter
    found: Found
    left_out: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """Where the tensors lie, for people: `key teacher, backbone`."""
        weights = self.found.weights
        parts = [f"key {weights.key}"] if weights.key else []
        parts += [weights.prefix.rstrip(".")] if weights.prefix else []
        return ", ".join(parts) or "state dict"

    def network(self) -> Network:
        """Returns the network that the tensors are, as the layout and the user say it.

        Raises:
            RequestError: The tensors are none that the layout knows, or the user says heads of what has none to say.
        """
        network, told = self.adapter.network(self.found), self.found.settings.num_heads
        if told is not None and network.origins.get("heads") != "as given":
            text = f"{network.architecture} tells its heads, or has none: leave it out"
            raise RequestError(text, where=self.found.where, field="num_heads", found=told)
        return network

    @property
    def left_out_texts(self) -> dict[str, str]:
        """How many tensors are not taken and where they lie, by what they are."""
        return {what: f"{len(names)} tensors ({_where(names)})" for what, names in self.left_out.items()}


def recognise(content: Content, settings: ModelSettings, where: str, *, advise: bool = True) -> Recognised:
    """Returns what a file is.

    Args:
        content: of the file.
        settings: what the user said of the model.
        where: for messages.
        advise: whether a refusal looks for the nearest layout, which means to read the file in many ways.

    Raises:
        RequestError: No adapter has this layout, or two have it; the weights that its authors evaluate are not there,
            or no state dict; a tensor is left that no adapter names. The text says what to do.
    """
    key = settings.checkpoint_key
    adapter = _adapter_of(content, where, key, advise)
    if adapter is None:
        assert key is not None  # a part of the file, which the user names, may be a file of its own
        inner = content.part(key)
        found = recognise(
            inner, settings.model_copy(update={"checkpoint_key": None}), f"{where}, key {key}", advise=advise
        )
        inner_key = STATE_KEY.join(part for part in (key, found.found.weights.key) if part)
        weights = replace(found.found.weights, key=inner_key)
        return replace(found, found=replace(found.found, weights=weights, settings=settings, where=where))
    weights = _chosen(adapter, content, key, where, advise)
    taken, left_out = _split(adapter, content, weights, where)
    if key is None:
        left_out |= _beside_at_the_top(adapter, content, where)
    found_tensors = Found(tensors=taken, content=content, weights=weights, settings=settings, where=where)
    return Recognised(adapter=adapter, found=found_tensors, left_out=left_out)


def _adapter_of(content: Content, where: str, key: str | None, advise: bool) -> Adapter | None:
    """Returns the adapter that a file belongs to; None where only the key that the user names may belong to one."""
    matching = [adapter for adapter in adapters().values() if adapter.matches(content)]
    top = max((adapter.rank for adapter in matching), default=None)
    best = [adapter for adapter in matching if adapter.rank == top]
    if len(best) > 1:
        names = " and ".join(f"{adapter.name} ({adapter.summary})" for adapter in best)
        raise RequestError(f"{where}: two adapters have this layout: {names}; save the backbone's state dict by itself")
    names_key = key is not None and (not best or _of_key(best[0], content, key) is None) and content.has(key)
    if names_key and not content.is_flat:
        return None
    if not best:
        raise RequestError(f"{where}: {nearest(content, _reader) if advise else 'no adapter has this layout'}")
    return best[0]


def _of_key(adapter: Adapter, content: Content, key: str) -> Weights | None:
    """Returns the set of weights that the user names: by its own name, or by a key that holds one set alone."""
    sets = adapter.sets(content)
    named = [weights for weights in sets if weights.name == key]
    named = named or [weights for weights in sets if weights.key == key]
    return named[0] if named else None


def _chosen(adapter: Adapter, content: Content, key: str | None, where: str, advise: bool) -> Weights:
    sets = adapter.sets(content)
    there = [weights.name for weights in sets if _is_there(content, weights)]
    if key is not None:
        named = _of_key(adapter, content, key)
        if named is None or (not content.has(named.key) and named.key):
            known = ", ".join(there) or "none"
            raise RequestError(f"{where}: no set of weights {key!r} in this file of {adapter.summary}; there: {known}")
        return named
    first = sets[0]
    if first.name in there:
        return first
    beginning = f"no tensor of it begins with {first.prefix}: they begin with {beginnings(content.names(first.key))}"
    reason = content.problem(first.key) or beginning
    near = advice(content, _reader) if advise and content.problem(first.key) is None else None
    others = f"; there: {', '.join(there)} ({asked('checkpoint_key', there[0])} takes it)" if there else ""
    raise RequestError(
        f"{where}: {first.name} ({first.what}), which is evaluated of {adapter.summary}, cannot be read: {reason}"
        f"{f'; {near}' if near is not None else ''}{others}"
    )


def _reader(content: Content) -> tuple[Adapter, Collection[Stored]] | None:
    """Returns the adapter that reads a file with nothing left over, and what it takes of it; None for none."""
    settings = ModelSettings(num_heads=1)  # which is not in the names, and is asked for later
    try:
        found = recognise(content, settings, "", advise=False)
        check_outline(found.adapter.network(found.found), found.found.tensors, "")
    except RequestError:
        return None
    return found.adapter, found.found.tensors.values()


def _is_there(content: Content, weights: Weights) -> bool:
    names = content.names(weights.key)
    return any(name.startswith(weights.prefix) for name in names) if weights.prefix else bool(names)


def _split(
    adapter: Adapter, content: Content, weights: Weights, where: str
) -> tuple[dict[str, Stored], dict[str, list[str]]]:
    """Returns (the backbone's tensors without prefix, names that are left out by what they are)."""
    try:
        state = content.state(weights.key)
    except RequestError as error:
        raise RequestError(f"{where}: {error}") from None
    twins = {each.prefix: each.what for each in adapter.sets(content) if each.key == weights.key and each != weights}
    inside = adapter.inside(content) if callable(adapter.inside) else adapter.inside
    taken: dict[str, Stored] = {}
    left_out: dict[str, list[str]] = {}
    rest = []
    for name, tensor in state.items():
        if name.startswith(weights.prefix):
            inner = name.removeprefix(weights.prefix)
            what = _what(inner, inside)
            if what is None:
                taken[inner] = tensor
                continue
        else:
            twin = next((what for prefix, what in twins.items() if prefix and name.startswith(prefix)), None)
            what = twin or _what(name, adapter.beside)
        if what is None:
            rest.append(name)
        else:
            left_out.setdefault(what, []).append(name)
    if rest:
        raise RequestError(
            f"{where}: unexpected tensors beside the backbone: {listed(sorted(rest))}; nearest adapter: {adapter.name} "
            f"({adapter.summary}), which knows nothing of them beside {weights.prefix or 'its tensors'}"
        )
    return taken, left_out


def _what(name: str, known: Mapping[str, str]) -> str | None:
    """Returns what a name is that is left out: by whole name, or by a prefix of whole parts; `*` is one part."""
    parts = name.split(".")
    for pattern, what in known.items():
        wanted = pattern.split(".")
        rest_may_follow = not wanted[-1]
        wanted = wanted[:-1] if rest_may_follow else wanted
        long_enough = len(parts) > len(wanted) if rest_may_follow else len(parts) == len(wanted)
        if long_enough and all(want in ("*", part) for want, part in zip(wanted, parts[: len(wanted)], strict=True)):
            return what
    return None


def _beside_at_the_top(adapter: Adapter, content: Content, where: str) -> dict[str, list[str]]:
    """Returns the keys at the top that hold tensors and are not taken, by what they are."""
    sets = {weights.key.split(STATE_KEY)[0]: weights.what for weights in adapter.sets(content) if weights.key}
    taken = adapter.sets(content)[0].key.split(STATE_KEY)[0]
    left_out: dict[str, list[str]] = {}
    for key in content.keys:
        if key == taken:
            continue
        names = [f"{key}.{name}" if name else key for name in _tensor_names(content.value(key), "", set())]
        if not names:
            continue
        what = adapter.others.get(key) or sets.get(key) or _TRAINING.get(key)
        if what is None:
            raise RequestError(
                f"{where}: the key {key} holds {len(names)} tensors that the adapter {adapter.name} "
                f"({adapter.summary}) does not know: a twin of {taken or 'the backbone'}? {asked('checkpoint_key')} "
                f"says which set of weights is meant: {taken or 'the backbone'} or {key}"
            )
        left_out.setdefault(what, []).extend(names)
    return left_out


def _tensor_names(value: Any, prefix: str, seen: set[int]) -> Iterator[str]:
    """Yields where the tensors inside nested containers lie, each container once: few bytes can hold one many times."""
    if is_stored(value):
        yield prefix
    elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _tensor_names(item, f"{prefix}.{key}" if prefix else str(key), seen)


def _where(names: list[str]) -> str:
    """Returns the parts of names that tell where they lie: the first ones that differ."""
    starts = list(
        dict.fromkeys(".".join(name.split(".")[:2]) if len(names) < 8 else name.split(".")[0] for name in names)
    )
    return listed(starts, 3)
