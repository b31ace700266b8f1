"""PyTorch's own file of a traced model: needs torch, and no Python class of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from automl.config import Export
from automl.errors import ExportError
from automl.exports.whole import reason


class Pt2(Export):
    """torch.export: for Python with PyTorch, on any of its devices, and for its compilers."""

    name: Literal["pt2"] = "pt2"
    suffix: ClassVar[str] = ".pt2"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16")

    def write(self, whole: Any, file: Path, precision: str) -> None:
        program = whole.traced()
        for node in program.graph.nodes:
            if getattr(node.target, "namespace", "") == "automl":  # known where we are not
                node.target = getattr(torch.ops.aten, node.target.name().split("::")[1]).input
        program.graph_module.recompile()
        program.example_inputs = None  # they alone would be pickled
        torch.export.save(program, file, extra_files=whole.facts)

    def open(self, file: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
        """Only for a file just written: `torch.export.load` unpickles what a stranger put in."""
        facts = {"labels": ""}  # with nothing asked for, nothing would be told
        module = torch.export.load(file, extra_files=facts).module()

        def run(x: Tensor) -> Tensor:
            try:
                shares: Tensor = module(x)
            except (RuntimeError, AssertionError) as error:  # guards are assertions
                raise ExportError(f"pt2: {tuple(x.shape)}: {reason(error)}") from error
            return shares

        return run, facts
