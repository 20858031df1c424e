"""The registry: what its files hold, and which of them there are. A broken file is never skipped."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from massl_bench.core.errors import SpecError, unknown_name
from massl_bench.core.kinds import DatasetKind
from massl_bench.specs.dataset import DatasetSpec
from massl_bench.specs.manifest import ManifestSpec
from massl_bench.specs.plugins import registry_roots
from massl_bench.specs.published import PublishedSpec
from massl_bench.specs.published_weights import PublishedCheckpoint, PublishedWeights
from massl_bench.specs.suite import SuiteSpec
from massl_bench.specs.task import TaskSpec
from massl_bench.specs.toml import Spec, read_toml


def packaged_root() -> Path:
    """Returns what holds `tasks/`, `weights/` and `results/`: a directory of the package, or the checkout around it."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "registry"
    return installed if installed.is_dir() else package.parent


class Registry:
    """The tasks, datasets, suites and manifests that there are: the user's own, and the installed ones.

    The user's own hide installed ones of the same name, an earlier directory hides a later one. Two installed ones of
    the same name (this package's, and those of plugins) are an error: nobody would have chosen between them.

    Args:
        include: the user's directories, laid out as this project's root (`tasks/`, `tasks/datasets/`,
            `tasks/suites/`).
        weights_dir: searched for manifests before all others.

    Raises:
        SpecError: A directory, the user's or a plugin's, has no folder `tasks/`.
    """

    def __init__(self, include: Sequence[Path] = (), weights_dir: Path | None = None) -> None:
        for root in include:
            if not (root / "tasks").is_dir():
                raise SpecError(f"include path {root}: expected a directory with a folder tasks/ inside")
        self._include = tuple(include)
        self._weights_dir = weights_dir
        self._plugins = registry_roots()

    def _files(self, folder: str, first: Path | None = None) -> dict[str, Path]:
        """Returns the TOML files of one folder of every root, and of the directory `first`, by name."""
        found: dict[str, Path] = {}
        for root in (packaged_root(), *self._plugins):
            for path in (root / folder).glob("*.toml"):
                if path.stem in found:
                    raise SpecError(
                        f"{self._plugins[root]}: {path}: the name is taken by {found[path.stem]}; rename one"
                    )
                found[path.stem] = path
        own = [*reversed([root / folder for root in self._include]), *([first] if first is not None else [])]
        for directory in own:
            found |= {path.stem: path for path in directory.glob("*.toml")}
        return dict(sorted(found.items()))

    @cached_property
    def tasks(self) -> dict[str, Path]:
        """The task files by name."""
        return self._files("tasks")

    @cached_property
    def datasets(self) -> dict[str, Path]:
        """The dataset files by name."""
        return self._files("tasks/datasets")

    @cached_property
    def suites(self) -> dict[str, Path]:
        """The suite files by name."""
        return self._files("tasks/suites")

    @cached_property
    def copies(self) -> dict[str, Path]:
        """The files that describe generated copies, by name."""
        return self._files("tasks/copies")

    @cached_property
    def published(self) -> dict[str, Path]:
        """The files of published values, by name."""
        return self._files("tasks/published")

    @cached_property
    def checkpoints(self) -> dict[str, tuple[PublishedWeights, PublishedCheckpoint]]:
        """What others publish, by the name that `weights fetch` takes; raises `SpecError` for a malformed file."""
        first = self._weights_dir / "published" if self._weights_dir is not None else None
        found: dict[str, tuple[PublishedWeights, PublishedCheckpoint]] = {}
        where: dict[str, Path] = {}
        for path in self._files("weights/published", first).values():
            source = read_toml(path, PublishedWeights)
            for name, checkpoint in source.checkpoints.items():
                if name in where:
                    raise SpecError(f"{path}: checkpoints.{name}: the name is taken by {where[name]}; rename one")
                found[name], where[name] = (source, checkpoint), path
        return dict(sorted(found.items()))

    @cached_property
    def manifests(self) -> dict[str, Path]:
        """The manifests of models by name."""
        return self._files("weights", self._weights_dir)

    def task(self, name: str) -> TaskSpec:
        """Returns one task; raises `RequestError` with near names, `SpecError` for a malformed file."""
        return self._load("task", name, self.tasks, TaskSpec)

    def tasks_for(self, kind: DatasetKind) -> list[str]:
        """Returns the names of the tasks that apply to a kind of dataset; raises as `task`."""
        return [name for name in self.tasks if kind in self.task(name).kinds]

    def dataset(self, name: str) -> DatasetSpec:
        """Returns one dataset; raises as `task`."""
        return self._load("dataset", name, self.datasets, DatasetSpec, "or folder:DIR, hf:REPO")

    def head_of(self, reference: str) -> str | None:
        """Returns the dataset whose head a test set is for; None for other datasets, and what is no registry name."""
        head = self.dataset(reference).head if reference in self.datasets else None
        return head.dataset if head is not None else None

    def suite(self, name: str) -> SuiteSpec:
        """Returns one suite; raises as `task`."""
        return self._load("suite", name, self.suites, SuiteSpec)

    def published_values(self, name: str) -> PublishedSpec:
        """Returns what one source states; raises as `task`."""
        return self._load("source of published values", name, self.published, PublishedSpec)

    def manifest(self, name: str) -> ManifestSpec:
        """Returns one manifest; raises as `task`."""
        return self._load("model", name, self.manifests, ManifestSpec)

    def _load(self, kind: str, name: str, files: dict[str, Path], model: type[Spec], hint: str = "") -> Spec:
        if name not in files:
            raise unknown_name(kind, name, files, hint)
        try:
            return read_toml(files[name], model)
        except SpecError as error:
            plugin = next((plugin for root, plugin in self._plugins.items() if files[name].is_relative_to(root)), None)
            raise error if plugin is None else SpecError(f"{plugin}: {error}") from None
