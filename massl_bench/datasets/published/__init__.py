"""Readers of the datasets' own published layouts, and of the data that libraries embed; found by a spec's `reader`."""

from massl_bench.datasets.published.binary import STL10
from massl_bench.datasets.published.cifar import CIFAR10, CIFAR100
from massl_bench.datasets.published.cifar_tests import CIFAR_TESTS
from massl_bench.datasets.published.class_folders import COUNTRY211, IMAGENET, IMAGENET_SUBSET
from massl_bench.datasets.published.copydays import COPYDAYS
from massl_bench.datasets.published.csv_tables import GTSRB
from massl_bench.datasets.published.disc21 import DISC21
from massl_bench.datasets.published.embedded import DIGITS
from massl_bench.datasets.published.imagenet_tests import IMAGENET_TESTS
from massl_bench.datasets.published.inaturalist import INAT2018
from massl_bench.datasets.published.landmarks import ROXFORD5K, ROXFORD5K_1M, RPARIS6K, RPARIS6K_1M
from massl_bench.datasets.published.lists import DTD, EUROSAT, FGVC_AIRCRAFT, FOOD101, OXFORD_PETS
from massl_bench.datasets.published.matlab import FLOWERS102, STANFORD_CARS
from massl_bench.datasets.published.pickles import read_plain_pickle
from massl_bench.datasets.published.reader import PublishedReader
from massl_bench.datasets.published.segmentation import ADE20K, VOC2012
from massl_bench.datasets.published.voc import VOC2007

__all__ = ["READERS", "PublishedReader", "read_plain_pickle"]

READERS: dict[str, PublishedReader] = {
    "ade20k": ADE20K,
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
    "copydays": COPYDAYS,
    "country211": COUNTRY211,
    "digits": DIGITS,
    "disc21": DISC21,
    "dtd": DTD,
    "eurosat": EUROSAT,
    "fgvc-aircraft": FGVC_AIRCRAFT,
    "flowers102": FLOWERS102,
    "food101": FOOD101,
    "gtsrb": GTSRB,
    "imagenet": IMAGENET,
    "imagenet-subset": IMAGENET_SUBSET,
    "inat2018": INAT2018,
    "oxford-pets": OXFORD_PETS,
    "roxford5k": ROXFORD5K,
    "roxford5k-1m": ROXFORD5K_1M,
    "rparis6k": RPARIS6K,
    "rparis6k-1m": RPARIS6K_1M,
    "stanford-cars": STANFORD_CARS,
    "stl10": STL10,
    "voc2007": VOC2007,
    "voc2012": VOC2012,
    **CIFAR_TESTS,
    **IMAGENET_TESTS,
}
