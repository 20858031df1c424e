# %% [markdown]
# # A tour of massl-bench from Python
#
# Runs on a laptop's CPU in under a minute, without a download: `python docs/tour.py`, or cell by cell in an editor that
# knows `# %%`.

# %%
import numpy as np
import torch
from torch import nn
from torchvision import transforms
from torchvision.datasets import FakeData

import massl_bench as mb

print(mb.list_tasks())
print(mb.info("knn").summary)

# %% [markdown]
# ## Features that are there already
#
# Arrays, tensors, data frames or lists; labels may be words. Parameters are keywords; the rest is the task's own.

# %%
rng = np.random.default_rng(0)
kinds = np.array(["ape", "bee", "cat"])
labels, test_labels = rng.choice(kinds, 300), rng.choice(kinds, 90)
features, test_features = (
    (chosen[:, None] == kinds).astype(float) + 0.4 * rng.standard_normal((len(chosen), 3))
    for chosen in (labels, test_labels)
)
scores = mb.evaluate("knn", train=(features, labels), test=(test_features, test_labels), k=[5, 20])
print(scores)
print(float(scores.headline), scores.headline.ci95)
print(scores.to_frame())

# %% [markdown]
# Retrieval and copy detection take what each query should find.

# %%
print(mb.evaluate("copy-detection", originals=features[:50], queries=features[:50] + 0.01, ground_truth=range(50)))

# %% [markdown]
# ## An encoder: a checkpoint, a model of a library, or a module of your own
#
# `mb.load_encoder` takes what `--model` takes. A module of your own says how its images are prepared; its identity is
# made of its tensors, of the numbers that its parts hold, and of its code.


# %%
class Mine(nn.Module):
    """Any module from images [B, 3, H, W] to features [B, D]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 64, kernel_size=5, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Returns the mean of each channel."""
        return self.convolution(images).relu().mean(dim=(2, 3))


prepare = transforms.Compose(
    [
        transforms.Resize(32, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(32),
        transforms.ToTensor(),
        transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    ]
)
encoder = mb.Encoder.from_module(Mine(), name="mine", transform=prepare)
print(encoder.card.describe())

# %% [markdown]
# ## Its features of any images
#
# A dataset of the registry, a folder, the hub; a dataset of torch, of the `datasets` library, or a list. Images come
# without a transform: the encoder has its own.

# %%
digits = mb.extract(encoder, "digits", progress=False)
print({role: bank.features.shape for role, bank in digits.items()})
print(mb.evaluate("linear", digits).headline)

torch_items = FakeData(size=64, image_size=(3, 48, 64), num_classes=4)
bank = mb.extract(encoder, torch_items, progress=False)["all"]
print(bank.features.shape, bank.num_classes)

from datasets import ClassLabel, Dataset, Features, Image  # noqa: E402

pictures = [rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for _ in range(12)]
split = Dataset.from_dict(
    {"image": pictures, "label": [0, 1] * 6},
    features=Features({"image": Image(), "label": ClassLabel(names=["left", "right"])}),
)
bank = mb.extract(encoder, {"train": split, "test": split}, progress=False)
print(bank["train"].class_names, float(mb.evaluate("knn", bank, k=1)["top1@1"]))

# %% [markdown]
# ## Records: what a table is made of
#
# `mb.benchmark` plans, runs and records as `massl-bench run` does. Finished cells are read, not run again; a record can
# be computed again and compared.

# %%
found = mb.benchmark([encoder, "pixels"], tasks=["knn", "spectrum"], datasets="digits", progress=False)
print(found)
print(mb.leaderboard(bundled=False)[["model", "task", "metric", "value"]])
print(mb.verify(found[2].path, progress=False).reproduced)
