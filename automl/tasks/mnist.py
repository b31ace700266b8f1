"""MNIST (LeCun, 1998) and Fashion-MNIST (Xiao, 2017): the same format, digits and clothes."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from automl.data import Split
from automl.errors import DataError
from automl.tasks.images import PublishedImages
from automl.tasks.source import Parts, Reader, files

PREFIXES = {"train": "train", "test": "t10k"}


class Idx(PublishedImages):
    """Read from the four uncompressed IDX files, in a folder or a tar archive."""

    image: ClassVar = (1, 28, 28)
    counts: ClassVar = {"train": 60_000, "test": 10_000}
    theirs: ClassVar[str]  # what torchvision calls the set, its class and its folder

    def places(self) -> Mapping[str, Reader]:
        return {
            f"{self.theirs}/raw/t10k-images-idx3-ubyte": self._idx,
            f"{self.name}/t10k-images-idx3-ubyte": self._idx,
            f"{self.name}-idx.tar.xz": self._idx,
        }

    def download(self, folder: Path) -> None:
        import torchvision

        getattr(torchvision.datasets, self.theirs)(folder, download=True)

    def _idx(self, place: Path) -> Parts:
        found = files(place, r"(train|t10k)-(images-idx3|labels-idx1)-ubyte", largest=10**8, most=4)

        def array(name: str, *shape: int) -> Tensor:
            content = found.get(name, b"")
            header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)  # 8: bytes
            size = len(header) + math.prod(shape)
            if len(content) != size or not content.startswith(header):
                raise DataError(
                    f"{place}: {name}: got {len(content):,} bytes that begin with "
                    f"{content[: len(header)].hex() or 'nothing'}; want {size:,} that begin with "
                    f"{header.hex()}, the IDX file of {self.name}"
                )
            return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).copy())

        splits = {}
        for part, count in self.counts.items():
            prefix = PREFIXES[part]
            x = array(f"{prefix}-images-idx3-ubyte", count, *self.image[1:])
            y = array(f"{prefix}-labels-idx1-ubyte", count)
            splits[part] = Split(x.view(count, *self.image), y.long())
        return splits


class Mnist(Idx):
    """70,000 handwritten digits, grey, 28x28 pixels, 10 classes; 10,000 are the test split."""

    name: Literal["mnist"] = "mnist"
    origin: ClassVar[str] = "MNIST (LeCun, Cortes and Burges, 1998); no licence stated"
    theirs: ClassVar = "MNIST"
    labels: ClassVar = tuple("0123456789")


class FashionMnist(Idx):
    """70,000 pieces of clothing, grey, 28x28 pixels, 10 classes; 10,000 are the test split."""

    name: Literal["fashion-mnist"] = "fashion-mnist"
    origin: ClassVar[str] = "Fashion-MNIST (Zalando Research, 2017); MIT"
    theirs: ClassVar = "FashionMNIST"
    labels: ClassVar = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
