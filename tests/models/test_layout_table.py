"""The documentation's table of layouts is that of the adapters."""

from __future__ import annotations

from tests.models.layout_table import PAGE, table


def test_the_table_of_layouts_is_that_of_the_adapters() -> None:
    assert f"\n{table()}\n" in PAGE.read_text(), "python -m tests.models.layout_table writes it anew"
