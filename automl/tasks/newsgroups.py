"""Posts to 20 newsgroups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from automl.data import Split
from automl.errors import DataError
from automl.inputs.text import pack
from automl.tasks.source import Parts, Reader, Source, fetch, files, table
from automl.tasks.texts import PublishedTexts

URL = "https://ndownloader.figshare.com/files/5975967"  # as scikit-learn has it
SHA256 = "8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"
ARCHIVE = "20news-bydate.tar.gz"
GROUPS = """
alt.atheism comp.graphics comp.os.ms-windows.misc comp.sys.ibm.pc.hardware comp.sys.mac.hardware
comp.windows.x misc.forsale rec.autos rec.motorcycles rec.sport.baseball rec.sport.hockey sci.crypt
sci.electronics sci.med sci.space soc.religion.christian talk.politics.guns talk.politics.mideast
talk.politics.misc talk.religion.misc
"""
Post = tuple[str, str]  # group, text


class Newsgroups(PublishedTexts):
    """18,846 posts (Lang 1995) in 20 groups; those of the test split were written later.

    Headers, quotes and signatures tell who writes rather than of what, and are dropped as
    scikit-learn drops them; a few posts have no text but these.
    """

    name: Literal["20newsgroups"] = "20newsgroups"
    origin: ClassVar[str] = "20 Newsgroups, the version by date (Lang 1995); no licence stated"
    strip: bool = Field(True, description="drop headers, quotes and signatures")

    labels: ClassVar[tuple[str, ...]] = tuple(GROUPS.split())
    counts: ClassVar[Mapping[str, int]] = {"train": 11_314, "test": 7_532}
    folders: ClassVar[Sequence[str]] = ("newsgroups",)

    def places(self) -> Mapping[str, Reader]:
        original = dict.fromkeys((ARCHIVE, "20news-bydate-train"), self.original)
        return {"20newsgroups.tar.xz": self.tables, **original}

    def download(self, folder: Path) -> None:
        fetch(URL, SHA256, folder / ARCHIVE)

    def source(self, root: Path | None) -> Source:
        found = super().source(root)
        return replace(found, identity=[found.identity, self.strip])

    def tables(self, place: Path) -> Parts:
        """`train.csv` and `test.csv` with the columns label and text."""
        found = files(place, r"(20newsgroups/)?(train|test)\.csv", largest=2**27, most=2)
        posts: dict[str, list[Post]] = {part: [] for part in self.counts}
        for name, raw in found.items():
            rows = table(place, name, raw, {"label", "text"})
            posts[Path(name).stem] += [(row["label"], row["text"]) for row in rows]
        return self.parts(place, posts)

    def original(self, place: Path) -> Parts:
        """`20news-bydate-train/sci.med/58000` and so on, in Latin-1."""
        groups = "|".join(re.escape(label) for label in self.labels)
        wanted = rf"20news-bydate-(train|test)/({groups})/\d+"
        found = files(place, wanted, largest=2**20, most=sum(self.counts.values()))
        posts: dict[str, list[Post]] = {part: [] for part in self.counts}
        for name, raw in found.items():
            folder, group, _ = name.split("/")
            posts[folder.rpartition("-")[2]].append((group, raw.decode("latin-1")))
        return self.parts(place, posts)

    def parts(self, place: Path, posts: Mapping[str, list[Post]]) -> Parts:
        made = {}
        for part, given in posts.items():
            self.count(place, part, len(given))
            if odd := sorted({group for group, _ in given} - set(self.labels)):
                raise DataError(f"{place}: got the group {odd[0][:60]!r}; want one of the 20")
            texts = pack(stripped(text) if self.strip else text for _, text in given)
            y = torch.tensor([self.labels.index(group) for group, _ in given])
            made[part] = Split(texts, y)
        return made


def stripped(post: str) -> str:
    """The post without header, signature and quotes."""
    # where fetch_20newsgroups has them from, which would unpickle; they have no public name
    from sklearn.datasets import _twenty_newsgroups as sk

    text: str = sk.strip_newsgroup_header(post)
    text = sk.strip_newsgroup_quoting(sk.strip_newsgroup_footer(text))
    return text
