"""The columns of a table of images."""

from __future__ import annotations

from dataclasses import dataclass

from massl_bench.core.errors import RequestError
from massl_bench.core.printable import printable
from massl_bench.core.wording import asked


@dataclass(frozen=True)
class Columns:
    """The columns of a table of images; None where they should be guessed from their usual names."""

    image: str | None = None
    label: str | None = None

    def resolve(self, where: str, found: list[str]) -> tuple[str, str | None]:
        """Returns (image column, label column or None); only the usual names are guessed."""
        image = self.image or next((name for name in ("image", "img") if name in found), None)
        if image is None:
            raise RequestError(
                f"no column is called image or img; found: {', '.join(map(printable, found))}",
                where=where,
                remedy=f"name it with {asked('image_column')}",
            )
        return image, self.label or ("label" if "label" in found else None)

    def label_problem(self, found: list[str]) -> str | None:
        """Returns why a table has no labels; None where it has a column of them."""
        if self.label is not None or "label" in found:
            return None
        others = ", ".join(map(printable, found))
        return f"no column is called label; found: {others}; name it with {asked('label_column')}"
