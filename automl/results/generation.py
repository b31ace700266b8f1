"""Text drawn token by token from a model that predicts the next one. Knows no files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from automl.data import Inputs
from automl.inputs.text import UNKNOWN, Tokens

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
