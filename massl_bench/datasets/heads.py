"""Test sets for a head that is trained already: how their classes stand to the head's, and what they show.

Shapes: N test items, C classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from massl_bench.core.errors import RequestError
from massl_bench.core.values import Corruptions, HeadTest
from massl_bench.datasets.blocks import images_of_blocks
from massl_bench.datasets.dataset import Dataset
from massl_bench.specs.dataset import DatasetSpec


def head_test(dataset: Dataset) -> HeadTest | None:
    """Returns how a test set is judged; None for a dataset with a head of its own.

    Raises:
        RequestError: Its classes cannot be found among those of the head, or its blocks are of different images.
    """
    spec, head = dataset.spec, dataset.head
    if spec is None or spec.head is None or head is None:
        return None
    return HeadTest(
        members=_members(dataset, head, spec),
        others_compete=spec.head.others_compete,
        any_of_several=spec.any_of_several,
        corruptions=_corruptions(dataset, spec) if spec.corruptions is not None else None,
    )


def _members(dataset: Dataset, head: Dataset, spec: DatasetSpec) -> tuple[tuple[int, ...], ...] | None:
    """Returns for each class of the test set its classes of the head; None where the classes are the same."""
    assert spec.head is not None
    how, own = spec.head.classes, dataset.class_names
    if how == "same":
        if dataset.num_classes != head.num_classes:
            raise RequestError(
                f"{dataset.name} has {dataset.num_classes} classes, and {head.name}, whose head it tests, "
                f"{head.num_classes}: they cannot be the same; its file can name them (head.classes)"
            )
        names = head.class_names
        if own is not None and names is not None and own != names and sorted(own) == sorted(names):
            raise RequestError(
                f"{dataset.name} has the classes of {head.name}, whose head it tests, in another order: its file can "
                'match them by name (head.classes = "named")'
            )
        return None
    if how == "published":
        found = dataset.layout.head_classes()
        if found is None:
            raise RequestError(f"{dataset.name} ({dataset.place}): does not say which classes of {head.name} it shows")
    else:
        names = head.class_names
        if own is None or names is None:
            which = dataset if own is None else head
            raise RequestError(f"{which.name} ({which.place}): its classes have no names, by which they are matched")
        found = _by_name(dataset, own, names, how if isinstance(how, Mapping) else {name: (name,) for name in own})
    members = tuple(tuple(classes) for classes in found)
    taken = [number for classes in members for number in classes]
    there = set(taken) <= set(range(head.num_classes or 0))
    if not there or len(set(taken)) != len(taken) or not all(members) or len(members) != dataset.num_classes:
        raise RequestError(
            f"{dataset.name}: {len(members)} classes stand for {len(set(taken))} of the {head.num_classes} of "
            f"{head.name}; expected {dataset.num_classes}, of at least one each, and none twice"
        )
    return members


def _by_name(
    dataset: Dataset, own: Sequence[str], names: Sequence[str], table: Mapping[str, Sequence[str]]
) -> list[list[int]]:
    number = {name: index for index, name in enumerate(names)}
    missing = [name for name in own if name not in table]
    unknown = [name for classes in table.values() for name in classes if name not in number]
    if missing or unknown:
        what = f"{missing[0]!r} is not in its table" if missing else f"{unknown[0]!r} is not a class of its head"
        some = ", ".join(names[:5])
        raise RequestError(f"{dataset.name}: {what}; the head's are {some}{', …' if len(names) > 5 else ''}")
    return [[number[name] for name in table[each]] for each in own]


def _corruptions(dataset: Dataset, spec: DatasetSpec) -> Corruptions:
    assert spec.corruptions is not None
    names = spec.splits["test"].sources
    pairs = [name.partition("/") for name in names]
    return Corruptions(
        blocks=tuple((corruption, int(severity)) for corruption, _, severity in pairs),
        num_images=images_of_blocks(f"{dataset.name} ({dataset.place})", dataset.split("test"), names),
        reference=spec.corruptions.reference_errors,
    )
