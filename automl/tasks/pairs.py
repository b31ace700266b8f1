"""What tasks of pairs of texts share: splits, loss and baselines. Knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from automl.data import UNSCORED, Data, Pairs, Rows, Split
from automl.errors import DataError
from automl.inputs.text import BETWEEN, pack, paired
from automl.tasks.source import apart, firsts
from automl.tasks.texts import ORDER, TokenTask, by_frequency, by_ngrams


class PairTask(TokenTask):
    """Texts, and what is to be made of each: its translation, for example.

    Trials are ranked by bits per character of the target, told token by token where all before is
    given: smooth, the same for every vocabulary, and known after each epoch at no cost, which BLEU
    is not. The end of a target counts as one character.
    """

    gives: ClassVar[str] = "pairs"
    tells: ClassVar[str] = "targets"
    unit: ClassVar[str] = "pairs"
    input: ClassVar[str] = "bpe"

    def loss(
        self, logits: Tensor, y: Tensor, smoothing: float = 0.0, weights: Tensor | None = None
    ) -> Tensor:
        """Of targets. A CPU looks at nothing else, which spares a sixth of an epoch; a GPU would
        have to be waited for.
        """
        if logits.device.type == "cpu":
            told = y != UNSCORED
            logits, y = logits[told].unsqueeze(0), y[told].unsqueeze(0)
        return super().loss(logits, y, smoothing, weights)

    def scores(self, tally: dict[str, Tensor], split: Split) -> dict[str, float]:
        assert isinstance(split.x, Pairs)
        return self.measured(tally, int(split.x.characters.sum()))

    def chance(self, data: Data) -> tuple[str, float]:
        train, valid = _targets(data.train), _targets(data.valid)
        return "characters by their frequency", by_frequency(train, valid)

    def baseline(self, data: Data) -> tuple[str, float]:
        train, valid = _targets(data.train), _targets(data.valid)
        return f"a {ORDER}-gram model of targets alone", by_ngrams(train, valid)


def _targets(split: Split) -> str:
    """All of them as one text, each with its end, a character that none of them has."""
    return "".join(target + BETWEEN for _, target in paired(split.x))


def sources(x: Rows) -> list[str]:
    return [source for source, _ in paired(x)]


def packed(pairs: Sequence[tuple[str, str]]) -> Split:
    """Pairs as a split holds them."""
    rows = pack(f"{source}{BETWEEN}{target}" for source, target in pairs)
    return Split(rows, torch.zeros(len(pairs), dtype=torch.long))


def held_out(place: Path, split: Split, share: float, seed: int) -> tuple[Split, Split]:
    """What stays and what is drawn: the share about, all pairs of a source on one side.

    Raises DataError where there is but one source, or one is left.
    """
    first = firsts(pack(sources(split.x)))
    if len(first.unique()) < 2:
        told = "got too few sources; want one to train with and one for each part without a file"
        raise DataError(f"{place}: {told}")
    return apart(split, first, share, seed)
