"""Text told token by token by a model that predicts the next one. Knows no files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Generator, Tensor, nn

from automl.data import Inputs, Ragged
from automl.inputs.text import END, SEP, UNKNOWN, Paired, Tokens

ABREAST = 64  # texts that are translated side by side
UNFINISHED = "\ufffd"  # what decoding shows of a character whose bytes are not all there


@dataclass(frozen=True)
class Draw:
    """How a token is drawn from logits."""

    temperature: float
    top_k: int
    top_p: float
    generator: Generator

    def __call__(self, logits: Tensor) -> int:
        """One token of logits (K,)."""
        logits = logits.detach().float().cpu()
        logits[: UNKNOWN + 1] = -torch.inf  # these spell nothing
        if self.temperature == 0:
            return int(logits.argmax())
        shares, order = (logits / self.temperature).softmax(0).sort(descending=True, stable=True)
        if self.top_k:
            shares[self.top_k :] = 0
        beyond = shares.cumsum(0) - shares >= self.top_p * shares.sum()
        beyond[0] = False  # a tiny top_p is 0 in float32, and the likeliest not below it
        shares[beyond] = 0
        return int(order[torch.multinomial(shares, 1, generator=self.generator)])


@torch.inference_mode()
def written(
    model: nn.Module, inputs: Inputs, prompt: str, length: int, draw: Draw, device: torch.device
) -> Iterator[str]:
    """Pieces of text that follow the prompt, `length` characters together.

    A model with a `step` carries its state along; others read the last window anew each time.
    """
    assert isinstance(inputs, Tokens)
    known = inputs.tokenize([prompt or "\n"])[0]
    step: Any = getattr(model, "step", None)
    state: Any = None
    tokens = list(known)
    held: list[int] = []  # the last tokens, if they may end within a character; `shown` of them is
    shown, left = 0, length
    if step:
        for token in known[:-1]:
            _, state = step(torch.tensor([token], device=device), state)
    while left > 0:
        if step:
            logits, state = step(torch.tensor([tokens[-1]], device=device), state)
            last = logits[0]
        else:
            last = model(torch.tensor([tokens[-inputs.length :]], device=device))[0, -1]
        tokens.append(draw(last))
        held.append(tokens[-1])
        text = inputs.spell(held)
        unfinished = text.endswith(UNFINISHED)
        if piece := text[shown : len(text) - unfinished][:left]:
            yield piece
            left -= len(piece)
        held = held[-3:] if unfinished else []  # a fourth byte would end the character
        shown = max(0, len(inputs.spell(held)) - 1)


@torch.inference_mode()
def translated(
    model: nn.Module, inputs: Paired, texts: Sequence[str], device: torch.device
) -> list[str]:
    """The target of each text: the likeliest token again and again, up to `<end>`.

    As many tokens as the length of the inputs leaves room for. A text of nothing but white space
    is answered by an empty one.
    """
    sources = inputs.sources([*texts])
    asked = sorted(
        (i for i, text in enumerate(texts) if text.strip()), key=lambda i: len(sources[i])
    )
    told = [""] * len(texts)
    for first in range(0, len(asked), ABREAST):
        some = asked[first : first + ABREAST]
        targets = _targets(model, inputs, [sources[i] for i in some], device)
        for i, target in zip(some, targets, strict=True):
            told[i] = inputs.spell(target).strip()
    return told


def _targets(
    model: nn.Module, inputs: Paired, sources: list[list[int]], device: torch.device
) -> list[list[int]]:
    """Of sources that are read from their first tokens on, side by side.

    One that is over goes on with what was told of it, while longer ones are still read: nothing is
    padded, and what is told hangs on no other. A model with a `step` carries its state along;
    others read all of it anew each time.
    """
    step: Any = getattr(model, "step", None)
    state: Any = None
    lengths = torch.tensor([len(source) for source in sources], device=device)
    given = Ragged.of(map(torch.tensor, sources), torch.long).to(device)
    rows = given.padded(torch.arange(len(sources), device=device), inputs.length)
    over = torch.zeros(len(sources), dtype=torch.bool, device=device)
    for place in range(inputs.length - 1):
        if step:
            logits, state = step(rows[:, place], state)
        else:
            logits = model(rows[:, : place + 1])[:, -1]
        logits[:, : SEP + 1] = -torch.inf  # these spell nothing
        told = logits.argmax(1)
        own = lengths <= place + 1
        rows[:, place + 1] = torch.where(own, told, rows[:, place + 1])
        over |= own & (told == END)
        if over.all():
            break
    found = (row[len(s) :] for row, s in zip(rows.tolist(), sources, strict=True))
    return [list(takewhile(lambda token: token not in (0, END), row)) for row in found]
