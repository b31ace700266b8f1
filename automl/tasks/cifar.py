"""CIFAR-10 and CIFAR-100: small colour photographs (Krizhevsky, 2009)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

import numpy as np
import torch

from automl.data import Split
from automl.errors import DataError
from automl.tasks.images import PublishedImages, pictures
from automl.tasks.source import Parts, Reader, files

NAMES_10 = "airplane automobile bird cat deer dog frog horse ship truck"
NAMES_100 = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile
cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp
lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""


class Cifar(PublishedImages):
    """Read from the binary version, or from image files in folders; never from the pickles."""

    origin: ClassVar[str] = "CIFAR (Krizhevsky 2009); no licence stated"
    image: ClassVar = (3, 32, 32)
    counts: ClassVar = {"train": 50_000, "test": 10_000}
    archive: ClassVar[str]  # the binary version
    md5: ClassVar[str]
    folder: ClassVar[str]  # in the archive
    parts: ClassVar[Mapping[str, str]]  # file in the folder to part
    header: ClassVar[int]  # label bytes before the 3,072 pixel bytes of an image; the last counts

    def places(self) -> Mapping[str, Reader]:
        return {
            f"{self.folder}/{next(iter(self.parts))}": self._records,
            self.archive: self._records,
            f"{self.name}/train": self._pictures,
            f"{self.name}-jpeg.tar.xz": self._pictures,
        }

    def download(self, folder: Path) -> None:
        from torchvision.datasets.utils import download_url

        download_url(f"https://www.cs.toronto.edu/~kriz/{self.archive}", folder, md5=self.md5)

    def _records(self, place: Path) -> Parts:
        size = self.header + 3072
        names = "|".join(re.escape(name) for name in self.parts)
        found = files(
            place,
            f"({self.folder}/)?({names})",
            largest=size * self.counts["train"],
            most=len(self.parts),
        )
        batches: dict[str, list[bytes]] = {part: [] for part in self.counts}
        for path, content in found.items():
            if len(content) % size:
                raise DataError(
                    f"{place}: {path} has {len(content):,} bytes; want {size:,} for each image"
                )
            batches[self.parts[PurePosixPath(path).name]].append(content)

        splits = {}
        for part, contents in batches.items():
            records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, size)
            self.count(place, part, len(records))
            x = torch.from_numpy(records[:, self.header :].copy()).view(-1, *self.image)
            splits[part] = Split(x, torch.from_numpy(records[:, self.header - 1].astype(np.int64)))
        return splits

    def _pictures(self, place: Path) -> Parts:
        classes = "|".join(re.escape(label) for label in self.labels)
        found = files(
            place,
            rf"(train|test)/({classes})/[^/.][^/]*\.(jpe?g|png)",
            largest=1_000_000,
            most=sum(self.counts.values()),
        )
        paths = [path.split("/") for path in found]
        test = torch.tensor([part == "test" for part, _, _ in paths], dtype=torch.bool)
        self.count(place, "train", int((~test).sum()))
        self.count(place, "test", int(test.sum()))

        x, readable = pictures(place, found, self.image)
        y = torch.tensor([self.labels.index(label) for _, label, _ in paths])
        whole, test = Split(x, y[readable]), test[readable]
        return {"train": whole[~test], "test": whole[test]}


class Cifar10(Cifar):
    """60,000 colour images of 32x32 pixels in 10 equal classes; 10,000 are the test split."""

    name: Literal["cifar10"] = "cifar10"
    archive: ClassVar = "cifar-10-binary.tar.gz"
    md5: ClassVar = "c32a1d4ab5d03f1284b67883e8d87530"
    folder: ClassVar = "cifar-10-batches-bin"
    parts: ClassVar = {
        "test_batch.bin": "test",
        **{f"data_batch_{number}.bin": "train" for number in range(1, 6)},
    }
    header: ClassVar = 1  # class
    pickles: ClassVar = ("cifar-10-batches-py", "cifar-10-python.tar.gz")
    labels: ClassVar = tuple(NAMES_10.split())


class Cifar100(Cifar):
    """60,000 colour images of 32x32 pixels in 100 equal classes; 10,000 are the test split."""

    name: Literal["cifar100"] = "cifar100"
    archive: ClassVar = "cifar-100-binary.tar.gz"
    md5: ClassVar = "03b5dce01913d631647c71ecec9e9cb8"
    folder: ClassVar = "cifar-100-binary"
    parts: ClassVar = {"test.bin": "test", "train.bin": "train"}
    header: ClassVar = 2  # one of 20 groups, class
    pickles: ClassVar = ("cifar-100-python", "cifar-100-python.tar.gz")
    labels: ClassVar = tuple(NAMES_100.split())
