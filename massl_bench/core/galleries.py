"""What people look at beside numbers: small images with what a model makes of them, found by `bench.galleries`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A small image.

    Attributes:
        jpeg: the file's content.
        label: what it shows, in words.
    """

    jpeg: bytes
    label: str


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """What was found for a query.

    Attributes:
        image: what it looks like.
        right: whether it should be found; None where nobody counts it (junk).
        similarity: cosine; None for what was not found by it.
    """

    image: Thumbnail
    right: bool | None
    similarity: float | None


@dataclass(frozen=True, kw_only=True)
class Query:
    """An image with what a model finds nearest to it, the nearest first.

    Attributes:
        image: what it looks like.
        note: what became of it.
        neighbours: what is nearest.
    """

    image: Thumbnail
    note: str
    neighbours: Sequence[Neighbour] = ()


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Some queries.

    Attributes:
        title: of which there are many.
        text: how these were chosen.
        queries: in order.
    """

    title: str
    text: str
    queries: Sequence[Query]

    @property
    def num_images(self) -> int:
        """How many small images it holds."""
        return sum(1 + len(query.neighbours) for query in self.queries)


@dataclass(frozen=True, kw_only=True)
class FeatureMap:
    """Features in two dimensions.

    Attributes:
        text: how it was made, and of how many items.
        points: (x, y) of each item, in [0, 1].
        classes: the class of each, an index into the names.
        class_names: of the classes that are shown.
        images: of each.
    """

    text: str
    points: Sequence[tuple[float, float]]
    classes: Sequence[int]
    class_names: Sequence[str]
    images: Sequence[Thumbnail]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What there is to see of one model on one dataset.

    Attributes:
        dataset: its name.
        galleries: queries with their neighbours.
        map: in two dimensions.
        spectrum: what share of the variance of the features each principal axis holds, the largest first.
        attention: images, each followed by the same under the attention of the class token.
        missing: why something is not there.
    """

    dataset: str
    galleries: Sequence[Gallery] = ()
    map: FeatureMap | None = None
    spectrum: Sequence[float] = ()
    attention: Sequence[tuple[Thumbnail, Thumbnail]] = ()
    missing: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_images(self) -> int:
        """How many small images it holds."""
        shown = sum(gallery.num_images for gallery in self.galleries)
        return shown + (len(self.map.images) if self.map is not None else 0) + 2 * len(self.attention)
