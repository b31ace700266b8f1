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
WIDEST = 64  # beginnings kept at a time
PENALTY = 0.6  # power of the length that a target is forgiven its nats for (Wu et al. 2016)
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
    model: nn.Module,
    inputs: Paired,
    texts: Sequence[str],
    device: torch.device,
    beam: int = 1,
) -> list[str]:
    """The target of each text, the likeliest that is found with so many beginnings kept at a time.

    With a `beam` of 1 the likeliest token again and again, up to `<end>` (greedy). As many tokens
    as the length of the inputs leaves room for. A text of nothing but white space is answered by
    an empty one.
    """
    sources = inputs.sources([*texts])
    asked = [i for i, text in enumerate(texts) if text.strip()]
    asked.sort(key=lambda i: len(sources[i]))
    told, abreast = [""] * len(texts), max(1, ABREAST // beam)
    for first in range(0, len(asked), abreast):
        some = asked[first : first + abreast]
        targets = _targets(model, inputs, [sources[i] for i in some], device, beam)
        for i, target in zip(some, targets, strict=True):
            told[i] = inputs.spell(target).strip()
    return told


def _targets(
    model: nn.Module, inputs: Paired, sources: list[list[int]], device: torch.device, beam: int
) -> list[list[int]]:
    """Of sources that are read from their first tokens on, side by side.

    One that is over goes on with what was told of it, while longer ones are still read: nothing is
    padded, and what is told hangs on no other. A model with a `step` carries its state along;
    others read all of it anew each time. Of the beginnings that are kept the likeliest is taken
    for its length (Wu et al. 2016).
    """
    step: Any = getattr(model, "step", None)
    carried: Any = getattr(model, "kept", None)
    state: Any = None
    count, most = len(sources), inputs.length
    lengths = torch.tensor([[len(source)] for source in sources], device=device)
    given = Ragged.of(map(torch.tensor, sources), torch.long).to(device)
    rows = given.padded(torch.arange(count, device=device), most)
    rows = rows.unsqueeze(1).repeat(1, beam, 1)  # (N, beam, T)
    nats = torch.full((count, beam), -torch.inf, device=device)  # of what was told, so far
    nats[:, 0] = 0.0  # all beginnings are alike as yet
    over = torch.zeros(count, beam, dtype=torch.bool, device=device)
    first = beam * torch.arange(count, device=device).unsqueeze(1)
    same = torch.arange(beam, device=device).expand(count, beam)
    for place in range(most - 1):
        if step:
            logits, state = step(rows[:, :, place].flatten(), state)
        else:
            logits = model(rows[:, :, : place + 1].flatten(0, 1))[:, -1]
        logits[:, : SEP + 1] = -torch.inf  # these spell nothing
        shares = logits.float().log_softmax(1).view(count, beam, -1)
        shares = shares.masked_fill(over.unsqueeze(2), -torch.inf)
        shares[:, :, END] = shares[:, :, END].where(~over, 0.0)  # what is over stays as it is
        best, found = (nats.unsqueeze(2) + shares).flatten(1).topk(beam)
        own = lengths <= place + 1
        kept = torch.where(own, found // shares.shape[2], same)
        nats = torch.where(own, best, nats)
        rows, over = rows.flatten(0, 1)[first + kept], over.flatten()[first + kept]
        rows[:, :, place + 1] = torch.where(own, found % shares.shape[2], rows[:, :, place + 1])
        over |= own & (rows[:, :, place + 1] == END)
        if over.all():
            break
        if step and beam > 1:
            state = carried(state, (first + kept).flatten())
    told = (rows == END).int().argmax(2)  # where it ends
    told = torch.where(over, told, most - 1) + 1 - lengths
    best = (nats / ((5 + told) / 6) ** PENALTY).argmax(1)
    found = rows[torch.arange(count, device=device), best].tolist()
    rest = (row[len(source) :] for row, source in zip(found, sources, strict=True))
    return [list(takewhile(lambda token: token not in (0, END), row)) for row in rest]
