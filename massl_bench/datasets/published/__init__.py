"""Readers of the datasets' own published layouts, and of the data that libraries embed; found by a spec's `reader`."""

from massl_bench.datasets.published.cifar import CIFAR10, CIFAR100
from massl_bench.datasets.published.embedded import DIGITS
from massl_bench.datasets.published.pickles import read_plain_pickle
from massl_bench.datasets.published.reader import PublishedReader

__all__ = ["READERS", "PublishedReader", "read_plain_pickle"]

READERS: dict[str, PublishedReader] = {
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "digits": DIGITS,
}
