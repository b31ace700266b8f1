"""A device that is none: its tensors lie in plain memory, but each knows that it is elsewhere.

What no machine without a GPU would notice is noticed here: an operation on tensors of two devices,
and each time that Python would have to wait for the device. It is slow, and computes as the CPU.
To be imported in a process of its own: autograd asks once which devices there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
CPU = torch.device("cpu")
COPIES = {aten.copy_.default, aten._foreach_copy_.default}
WAITS = {
    aten._local_scalar_dense.default,  # item(), float(), if
    aten.nonzero.default,
    aten.masked_select.default,
    aten.repeat_interleave.Tensor,
    aten.bincount.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.equal.default,
}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}


class There(Tensor):
    """A tensor of the device; what it holds is `here`."""

    here: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, here: Tensor, requires_grad: bool = False) -> There:
        with torch.inference_mode(False):  # a view of a weight is none of inference
            return Tensor._make_wrapper_subclass(
                cls,
                here.shape,
                strides=here.stride(),
                storage_offset=here.storage_offset(),
                dtype=here.dtype,
                device=DEVICE,
                requires_grad=requires_grad,
            )

    def __init__(self, here: Tensor, requires_grad: bool = False) -> None:
        self.here = here

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["here"], None

    @staticmethod
    def __tensor_unflatten__(parts: dict[str, Tensor], *_: object) -> There:
        return There(parts["here"])

    @classmethod
    def __torch_dispatch__(cls, run: Any, *_: object) -> Any:
        raise AssertionError(f"{run}: a tensor of the device where there is none")

    def tolist(self) -> Any:
        return self.here.tolist()

    def new_tensor(self, told: Any) -> Tensor:
        return torch.tensor(told, dtype=self.dtype, device=DEVICE)

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: There) -> None:
        self.here = other.here


class Device(TorchDispatchMode):
    """Runs what is asked of the device on the CPU, and counts what it is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = Counter[str]()

    def __torch_dispatch__(self, run: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        asked = kwargs.get("device")
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [one for one in tensors if isinstance(one, There)]
        copies = run in COPIES or run is aten._to_copy.default
        if there and not copies:
            mixed = [tuple(one.shape) for one in tensors if one.ndim and not isinstance(one, There)]
            assert not mixed, f"{run}: tensors of two devices, here {mixed}"
        self._count(run, args, kwargs, there)
        goes = isinstance(args[0], There) if run is aten.copy_.default else bool(there)
        if asked is not None:
            goes, kwargs["device"] = torch.device(asked).type == DEVICE.type, CPU
        given = run(*of_here(args), **of_here(kwargs))
        if not goes:
            return given
        known = {id(one.here): one for one in there}  # what works in place gives its argument
        return tree_map_only(
            Tensor, lambda one: known[id(one)] if id(one) in known else There(one), given
        )

    def _count(self, run: Any, args: Any, kwargs: Any, there: list[There]) -> None:
        waits = bool(there) and run in WAITS
        if run is aten._to_copy.default and kwargs.get("device") is not None:
            goes = torch.device(kwargs["device"]).type == DEVICE.type
            waits = goes != bool(there) and not (goes and kwargs.get("non_blocking"))
        elif run is aten.copy_.default:
            to, of, *rest = args
            there_and_back = isinstance(to, There) != isinstance(of, There)
            waits = there_and_back and not (isinstance(to, There) and any(rest))
        elif run in INDEXING and there:
            waits = any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        self.waits[str(run)] += waits


def of_here(told: Any) -> Any:
    return tree_map_only(There, lambda one: one.here, told)


class Generator(torch.Generator):
    """Draws as that of the CPU does, so that both draw the same."""

    def __new__(cls, device: Any = "cpu") -> Generator:
        return super().__new__(cls)

    def __init__(self, device: Any = "cpu") -> None:
        self.of = torch.device(device)

    @property
    def device(self) -> torch.device:
        return self.of


def recurrent(cell: str) -> Callable[..., Any]:
    """One layer of `nn.RNN`, `nn.GRU` or `nn.LSTM` as their documentation has them."""

    def run(x: Tensor, state: Any, weights: Any, *_: object) -> Any:
        w_in, w_state, b_in, b_state = weights
        *_, h = state[0] if cell == "lstm" else state
        c = state[1][0] if cell == "lstm" else None
        out = []
        for told in F.linear(x, w_in, b_in).unbind(1):
            kept = F.linear(h, w_state, b_state)
            if cell == "rnn_tanh":
                h = (told + kept).tanh()
            elif cell == "gru":
                (r, z, n), (r_kept, z_kept, n_kept) = told.chunk(3, 1), kept.chunk(3, 1)
                n = (n + (r + r_kept).sigmoid() * n_kept).tanh()
                h = n + (z + z_kept).sigmoid() * (h - n)
            else:
                i, f, g, o = (told + kept).chunk(4, 1)
                c = f.sigmoid() * c + i.sigmoid() * g.tanh()
                h = o.sigmoid() * c.tanh()
            out.append(h)
        last = (h.unsqueeze(0),) if c is None else (h.unsqueeze(0), c.unsqueeze(0))
        return torch.stack(out, 1), *last

    return run


class Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


backend_registration._setup_privateuseone_for_python_backend("pretended", Module())
DEVICE = torch.device("pretended", 0)
LIBRARY = torch.library.Library("aten", "IMPL")
for cell in ("rnn_tanh", "gru", "lstm"):
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        LIBRARY.impl(f"{cell}.input", recurrent(cell), key)


@contextmanager
def pretended() -> Iterator[Device]:
    """Where there is such a device."""
    made, was = torch.tensor, torch.__future__.get_swap_module_params_on_conversion()

    def tensor(*told: Any, device: Any = None, **options: Any) -> Tensor:
        return made(*told, **options).to(device or CPU)  # else no mode sees where it goes

    with pytest.MonkeyPatch.context() as patch, Device() as found:
        patch.setattr(torch, "Generator", Generator)
        patch.setattr(torch, "tensor", tensor)
        torch.__future__.set_swap_module_params_on_conversion(True)
        try:
            yield found
        finally:
            torch.__future__.set_swap_module_params_on_conversion(was)
