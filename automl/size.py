"""How large a model is, known before it trains.

Counted on the meta device, where nothing needs memory and nothing is computed.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import unwrap
from types import MethodType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._ops import HigherOrderOperator
from torch.nn.utils.rnn import PackedSequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

aten = torch.ops.aten
FILLS = {  # in place; on the meta device there is nothing to fill
    aten.normal_.default,
    aten.uniform_.default,
    aten.fill_.Scalar,
    aten.zero_.default,
}
ALIKE = {  # give what is like their first input
    aten.relu.default,
    aten.gelu.default,
    aten._safe_softmax.default,
    aten.tril.default,
}
NORMS = {aten.native_batch_norm.default, aten.native_group_norm.default}  # checked before
LAYER_NORM = aten.native_layer_norm.default
META = torch.device("meta")
COMPILER = "torch._dynamo"
SEEN = 20_000  # answers that are kept


@dataclass(frozen=True)
class Size:
    params: int
    macs: int  # multiply-accumulates of matrix products and convolutions, forward, one example
    frozen: int = 0  # of the parameters, those that are not trained


def weigh(model: nn.Module, x: Tensor) -> tuple[Tensor, Size]:
    """What a model on the meta device gives for x (N, ...), and its size.

    The model is of no use after that: its recurrent layers take one step and say it was all.
    """
    counter = Counter()
    layers = [_OneStep(m, counter) for m in model.modules() if isinstance(m, nn.RNNBase)]
    for layer in layers:
        layer.layer.forward = layer  # hundreds of steps would take seconds
    try:
        with torch.inference_mode(False), counter:  # inference mode takes no layer apart
            out = model(x)
    except RuntimeError:
        if counter.followed or COMPILER not in sys.modules:
            raise
        return weigh(model, x)  # torch.cond has imported it, and it looked into the counter
    flops = counter.flops + sum(layer.more for layer in layers)
    params = sum(weight.numel() for weight in model.parameters())
    frozen = sum(weight.numel() for weight in model.parameters() if not weight.requires_grad)
    return out, Size(params, flops // 2 // len(x), frozen)


@contextmanager
def weightless() -> Iterator[None]:
    """Where models are made on the meta device, and none of their weights are drawn."""
    with torch.inference_mode(False), Counter():  # what `seen` keeps serves training, too
        yield


class Counter(TorchDispatchMode):
    """Counts the floating-point operations of what runs inside, by PyTorch's own formulas.

    What is made inside is made on the meta device: `torch.device("meta")` would do so in Python for
    each function, and FlopCounterMode counts by module as well, which takes longer than the model.
    On the meta device PyTorch works out in Python how large the outputs of some operations are,
    milliseconds each, and imports its compiler for that, which takes two seconds: of the usual ones
    it is not asked, and of no other twice.
    """

    seen: ClassVar[dict[Any, tuple[Tensor, int]]] = {}  # outputs and operations
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # of PyTorch
        self.flops = 0
        self.followed = COMPILER in sys.modules
        if not self.followed:  # it need not be kept away, for which PyTorch would import it
            bare = MethodType(unwrap(Counter.__torch_dispatch__), self)
            self.__torch_dispatch__ = bare  # type: ignore[method-assign]

    def __torch_dispatch__(
        self, run: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if run in FILLS:
            return args[0]
        if run in ALIKE:
            return args[0].detach()
        if run in NORMS or (run is LAYER_NORM and args[0].shape[-len(args[1]) :] == (*args[1],)):
            means = deviations = args[0].new_empty(0)  # for a backward pass
            return args[0].detach(), means, deviations
        kwargs = kwargs or {}
        if isinstance(run, HigherOrderOperator):  # as torch.cond, of which the larger branch counts
            with FlopCounterMode(display=False) as whole:
                out = run(*args, **kwargs)
            self.flops += whole.get_total_flops()
            return out
        if _makes(run):
            return run(*args, **{**kwargs, "device": META})
        if run is aten.lift_fresh.default:  # of torch.tensor
            return args[0].to(META)
        if not _gives_one(run):
            out, flops = self._ask(run, args, kwargs)
            self.flops += flops
            return out
        asked = run, _plain(args), _plain(kwargs)
        if asked not in self.seen:
            if len(self.seen) == SEEN:
                self.seen.clear()
            self.seen[asked] = self._ask(run, args, kwargs)
        out, flops = self.seen[asked]
        self.flops += flops
        return out.detach()

    @staticmethod
    def _ask(run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, int]:
        out = _answer(run, args, kwargs)
        formula = flop_registry.get(run._overloadpacket)
        return out, 0 if formula is None else formula(*args, **kwargs, out_val=out)


def _answer(run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives."""
    if _is_pointwise(run):
        return _pointwise(run, args, kwargs)
    if run is aten.addmm.default:
        product = aten.mm.default(*args[1:])
        return _pointwise(aten.add.Tensor, (product, args[0]), {})
    if run is aten.mean.dim and (args[0].is_floating_point() or kwargs.get("dtype")):
        return aten.sum.dim_IntList(*args, **kwargs)
    if run is aten.any.dim:
        return aten.sum.dim_IntList(*args, dtype=torch.bool)
    if run is aten.stack.default:
        tensors, dim = (*args, 0)[:2]
        return _joined([x.unsqueeze(dim) for x in tensors], dim)
    if run is aten.cat.default:
        return _joined(*args)
    return run(*args, **kwargs)


@functools.cache
def _is_pointwise(run: Any) -> bool:
    """Whether numbers are changed one by one, into one new tensor or where the first input is."""
    schema = run._schema
    elsewhere = any(x.kwarg_only and "Tensor" in str(x.type) for x in schema.arguments)  # out=
    gives = [str(value.type) for value in schema.returns]
    named = torch.Tag.pointwise in run.tags and run is not aten.clone.default
    return named and gives == ["Tensor"] and not elsewhere


def _pointwise(run: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Numbers one by one: of the shape of all together, and of the type that no numbers give."""
    tensors = [value for value in args if isinstance(value, Tensor)]
    shape = torch.broadcast_shapes(*(x.shape for x in tensors))
    try:
        dtype = run(*map(_none, args), **kwargs).dtype
    except NotImplementedError:  # for such types on a CPU
        return run(*args, **kwargs)
    if run._schema.is_mutable:
        return args[0] if args[0].shape == shape else run(*args, **kwargs)
    alike = [x for x in tensors if x.shape == shape]
    if not alike or run is aten.masked_fill.Scalar:
        return torch.empty(shape, dtype=dtype, device=META)
    return torch.empty_like(alike[0], dtype=dtype)  # it lies as that does


def _none(value: Any) -> Any:
    """A tensor of the same type without numbers; one number alone counts less towards types."""
    if isinstance(value, Tensor):
        return torch.empty((0,) if value.ndim else (), dtype=value.dtype)
    return value


def _joined(tensors: list[Tensor], dim: int = 0) -> Tensor:
    first = tensors[0]
    if len({(x.dtype, x.shape[:dim], x.shape[dim + 1 :]) for x in tensors}) > 1:
        return torch.cat(tensors, dim)  # wrong, or of more than one type
    shape = list(first.shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return first.new_empty(shape)


@functools.cache
def _makes(run: Any) -> bool:
    """Whether an operation makes a tensor of none, on any device."""
    arguments = run._schema.arguments
    of_tensors = any("Tensor" in str(value.type) for value in arguments)
    return not of_tensors and any(value.name == "device" for value in arguments)


@functools.cache
def _gives_one(run: Any) -> bool:
    """Whether an operation makes one new tensor of others, and changes none."""
    schema = run._schema
    told = [str(value.type) for value in schema.returns]
    return (
        told == ["Tensor"]
        and schema.returns[0].alias_info is None
        and not schema.is_mutable
        and any("Tensor" in str(value.type) for value in schema.arguments)
    )


def _plain(value: Any) -> Any:
    """An argument as far as it decides on the output: of a tensor how it lies."""
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    if isinstance(value, dict):
        return tuple((name, _plain(each)) for name, each in value.items())
    return tuple(map(_plain, value)) if isinstance(value, tuple | list) else (type(value), value)


class _OneStep:
    """A recurrent layer's `forward`: one step is run and counts as often as there are steps."""

    def __init__(self, layer: nn.RNNBase, counter: Counter) -> None:
        self.layer, self.run, self.counter = layer, layer.forward, counter
        self.more = 0

    def __call__(self, x: Tensor | PackedSequence, state: Any = None) -> Any:
        if isinstance(x, PackedSequence):
            return self.run(x, state)
        time = 1 if self.layer.batch_first and x.ndim == 3 else 0
        before = self.counter.flops
        out, last = self.run(x.narrow(time, 0, 1), state)
        steps = x.shape[time]
        self.more += (steps - 1) * (self.counter.flops - before)
        return torch.cat([out] * steps, time), last
