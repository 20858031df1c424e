"""From a reference to a dataset."""

from __future__ import annotations

from pathlib import Path

from massl_bench.datasets.copies import with_copies
from massl_bench.datasets.dataset import DataOptions, Dataset, find_dataset
from massl_bench.datasets.layouts import PatchesLayout
from massl_bench.specs import Registry


def open_dataset(reference: str, registry: Registry, options: DataOptions, *, fetch: bool = False) -> Dataset:
    """Returns the dataset of a reference: a registry name, `folder:DIR`, `hf:REPO[@REV]` or `wds:PATTERN`.

    Args:
        reference: what `--dataset` takes.
        registry: the known datasets.
        options: where to look.
        fetch: whether to download what is not on this machine.

    Raises:
        MissingDataError: It is not on this machine, and `fetch` is false or nothing could be downloaded.
        RequestError: The name is unknown, the directory does not hold what it should, or the options are not for such
            data.
    """
    spec = registry.dataset(reference) if reference in registry.datasets else None
    if spec is not None:
        options.check_used(reference, why="of the registry, which says its columns and splits")
    if spec is None or spec.patches is None or spec.copies is None:
        return find_dataset(reference, registry, options, fetch=fetch)
    patches = Dataset(
        name=spec.name,
        kind="unlabelled",
        spec=None,
        layout=PatchesLayout("embedded", Path(), spec.patches),
        sources={"all": ("all",)},
        memo_dir=options.cache_dir,
    )
    return with_copies(patches, spec.copies, registry, spec)
