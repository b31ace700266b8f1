"""BLEU of translations (Papineni et al. 2002). Knows no models."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

ORDER = 4  # words of the longest n-grams
ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
CUTS = (  # of mteval-v13a, which WMT used
    (re.compile(r"([{-~\[-` -&(-+:-@/])"), r" \1 "),  # marks of ASCII but ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),  # stops and commas but those between digits
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
)


def words(text: str) -> list[str]:
    """As the tokenizer `13a` of sacreBLEU (Post 2018) cuts a text."""
    text = text.rstrip().replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, mark in ENTITIES.items():
        text = text.replace(entity, mark)
    text = f" {text} "
    for cut, parted in CUTS:
        text = cut.sub(parted, text)
    return text.split()


def bleu(told: Sequence[str], wanted: Sequence[str]) -> float:
    """Of a whole corpus with one reference each, from 0 to 100, capital letters as they are.

    As sacreBLEU's default has it (13a, exponential smoothing: where no n-gram is right, half of
    one is taken to be, a quarter for the next order without, and so on). 0 where no word is right.
    """
    right, all_, lengths = [0] * ORDER, [0] * ORDER, [0, 0]
    for one, other in zip(told, wanted, strict=True):
        said, reference = words(one), words(other)
        lengths[0] += len(said)
        lengths[1] += len(reference)
        for n in range(ORDER):
            grams, known = _grams(said, n + 1), _grams(reference, n + 1)
            right[n] += (grams & known).total()
            all_[n] += grams.total()
    if not right[0]:
        return 0.0
    missed, logs = 1.0, 0.0
    for n in range(ORDER):
        if not all_[n]:  # no text is so long
            return 0.0
        if not right[n]:
            missed *= 2
        logs += math.log(right[n] / all_[n] if right[n] else 1 / (missed * all_[n]))
    brief = min(1.0, math.exp(1 - lengths[1] / lengths[0]))
    return 100 * brief * math.exp(logs / ORDER)


def _grams(said: list[str], length: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(said[i:] for i in range(length)), strict=False))
