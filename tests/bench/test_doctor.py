"""What `doctor` says of a GPU, seen without one."""

from __future__ import annotations

import pytest

from massl_bench.bench import doctor


@pytest.mark.parametrize(("problem", "ok"), [(None, True), ("no kernel image", False)])
def test_where_kmeans_clusters_is_said(monkeypatch: pytest.MonkeyPatch, problem: str | None, ok: bool) -> None:
    monkeypatch.setattr(doctor.faiss_backend, "gpu_problem", lambda index: problem)
    found = doctor._clusters(1)
    assert (found.subject, found.ok, found.optional) == ("k-means on GPU 1", ok, True)
    assert problem is None or problem in found.text
