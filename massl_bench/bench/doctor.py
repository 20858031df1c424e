"""What works on this machine: versions, devices, a real search, disk and data."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

from massl_bench import protocols
from massl_bench.bench.finding import Finding
from massl_bench.bench.shared_directory import examine_directory, versions_of
from massl_bench.core.devices import num_gpus
from massl_bench.core.errors import MasslBenchError, one_line
from massl_bench.core.values import SearchBackend
from massl_bench.core.wording import asked
from massl_bench.datasets import DataOptions, open_dataset
from massl_bench.features import FeatureCache
from massl_bench.features.inventory import entries
from massl_bench.learners import faiss_backend, neighbours
from massl_bench.specs import plugins
from massl_bench.specs.registry import Registry

_REQUIRED = ("torch", "torchvision", "timm", "scikit-learn", "datasets", "pandas", "pyarrow", "pillow", "simplejpeg")
_LOW_DISK_GB = 5


def examine(cache_dir: Path, results_dir: Path, data_root: Path | None, registry: Registry) -> list[Finding]:
    """Returns what was found, in the order in which a reader would ask."""
    versions = (
        f"massl-bench {metadata.version('massl-bench')}, Python {platform.python_version()}, {platform.platform()}"
    )
    findings = [Finding("versions", sys.version_info >= (3, 11, 4), versions)]
    findings += [_package(name) for name in _REQUIRED]
    findings += [_torch(), _faiss_wheels(), *_searches(), *_storage(cache_dir, results_dir)]
    findings += [*_plugins(), *_registry(registry)]
    return findings + _datasets(cache_dir, data_root, registry)


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, f"not installed; pip install {name}")


def _torch() -> Finding:
    try:
        import torch
        import torchvision  # noqa: F401  # fails where it was built for another torch

        count = num_gpus()
        names = ", ".join(torch.cuda.get_device_name(index) for index in range(count))
        gpus = f"{count} GPU ({names})" if count else "no GPU: the CPU is used"
        return Finding("devices", True, f"{gpus}, {torch.get_num_threads()} CPU threads")
    except Exception as error:  # a broken installation can raise anything
        return Finding(
            "devices", False, f"torch or torchvision does not import: {one_line(error)}; reinstall both together"
        )


def _faiss_wheels() -> Finding:
    try:
        faiss_backend.check_installation()
    except MasslBenchError as error:
        return Finding("faiss", False, str(error))
    return Finding(
        "faiss", True, ", ".join(f"{name} {version}" for name, version in faiss_backend.installed_faiss().items())
    )


def _searches() -> list[Finding]:
    on_gpus = [SearchBackend("torch", f"cuda:{index}") for index in range(num_gpus())]
    gpus = [_search(f"search on GPU {index}", backend, "torch") for index, backend in enumerate(on_gpus)]
    on_cpu = _search("search on the CPU", faiss_backend.DEFAULT_BACKEND, "FAISS")
    return [on_cpu, *gpus, *map(_clusters, range(num_gpus()))]


def _clusters(index: int) -> Finding:
    """Returns whether k-means can be on a GPU; without, it is on the CPU."""
    problem = faiss_backend.gpu_problem(index)
    found = "by FAISS" if problem is None else f"on the CPU: FAISS cannot use it ({problem})"
    return Finding(f"k-means on GPU {index}", problem is None, found, optional=True)


def _search(what: str, backend: SearchBackend, library: str) -> Finding:
    import numpy as np

    rows = np.random.default_rng(0).standard_normal((1000, 64), dtype=np.float32)
    try:
        found = neighbours.cosine_neighbours(rows[:50], rows, 3, backend=backend)
    except Exception as error:  # a broken library can raise anything
        return Finding(what, False, one_line(error))
    right = found.indices_QK[:, 0].tolist() == list(range(50))
    return Finding(what, right, "50 queries, all right" if right else f"wrong neighbours: reinstall {library}")


def _storage(cache_dir: Path, results_dir: Path) -> list[Finding]:
    findings = [_cache(cache_dir), *examine_directory("cache", cache_dir), versions_of(FeatureCache(cache_dir))]
    if results_dir.exists():
        free = _free_gb(results_dir)
        findings.append(Finding("results", free >= _LOW_DISK_GB, f"{results_dir}: {free:.0f} GB free", optional=True))
        findings += examine_directory("results", results_dir)
    return findings


def _free_gb(directory: Path) -> float:
    place = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free / 1e9


def _cache(cache_dir: Path) -> Finding:
    free = _free_gb(cache_dir)
    banks = list(entries(FeatureCache(cache_dir)))
    size = sum(entry.num_bytes for entry in banks) / 1e9
    text = f"{cache_dir}: {len(banks)} feature banks, {size:.2f} GB; {free:.0f} GB free"
    if free < _LOW_DISK_GB:
        text += f": little; {asked('cache_dir')} or MASSL_BENCH_CACHE chooses another place"
        return Finding("cache", False, text, optional=True)
    return Finding("cache", True, text)


def _plugins() -> list[Finding]:
    findings = []
    for plugin in plugins.all_declared():
        try:
            if plugin.group == plugins.PROTOCOLS_GROUP:
                protocols.load(plugin.name)
            elif plugins.is_code(plugin):
                plugin.load()
        except MasslBenchError as error:
            findings.append(Finding("plugin", False, str(error).removeprefix("plugin ")))
        else:
            findings.append(Finding("plugin", True, str(plugin).removeprefix("plugin ")))
    return findings


def _registry(registry: Registry) -> list[Finding]:
    """Returns how many files of each kind there are, and each that cannot be read."""
    kinds: list[tuple[str, Mapping[str, Path], Callable[[str], object]]] = [
        ("tasks", registry.tasks, registry.task),
        ("datasets", registry.datasets, registry.dataset),
        ("suites", registry.suites, registry.suite),
        ("models", registry.manifests, registry.manifest),
    ]
    broken = []
    for _, files, load in kinds:
        for name in files:
            try:
                load(name)
            except MasslBenchError as error:
                broken.append(Finding("registry", False, str(error)))
    counts = ", ".join(f"{len(files)} {kind}" for kind, files, _ in kinds)
    return [Finding("registry", True, counts), *broken]


def _datasets(cache_dir: Path, data_root: Path | None, registry: Registry) -> list[Finding]:
    options = DataOptions(cache_dir=cache_dir, data_root=data_root, offline=True)
    there, missing = [], []
    for name in registry.datasets:
        try:
            open_dataset(name, registry, options)
        except MasslBenchError:
            missing.append(name)
        else:
            there.append(name)
    root = f"no data root ({asked('data_root')} or MASSL_BENCH_DATA)" if data_root is None else str(data_root)
    findings = [Finding("datasets there", True, f"{', '.join(there) or 'none'}; {root}")]
    if missing:
        text = f"{', '.join(missing)}; get one: massl-bench datasets fetch NAME, or by hand: massl-bench info NAME"
        findings.append(Finding("datasets missing", False, text, optional=True))
    return findings
