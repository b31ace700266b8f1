"""ONNX, for ONNX Runtime and all else that reads it: phones, browsers, C++, Rust.

Its packages are the extra `onnx`, imported where they are needed.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from automl.config import Export, shown
from automl.errors import ExportError
from automl.exports.whole import RECURRENT, quiet, reason

GATES = {  # an operator's name here, its gates in ONNX's order, and what makes it PyTorch's
    "rnn_tanh": ("RNN", (0,), {}),
    "gru": ("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "lstm": ("LSTM", (0, 3, 1, 2), {}),
}


class Onnx(Export):
    """ONNX; int8 by dynamic quantization: weights are int8, what meets them is made so."""

    name: Literal["onnx"] = "onnx"
    suffix: ClassVar[str] = ".onnx"
    precisions: ClassVar[tuple[str, ...]] = ("float32", "float16", "bfloat16", "int8")
    needs: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")

    def write(self, whole: Any, file: Path, precision: str) -> None:
        table = {getattr(torch.ops.automl, n).default: _recurrent(n) for n in RECURRENT}
        try:
            with quiet():
                told = torch.onnx.export(
                    whole.traced(),
                    dynamo=True,
                    verbose=False,
                    input_names=["input"],
                    output_names=[whole.output],
                    custom_translation_table=table,
                )
        except torch.onnx.OnnxExporterError as error:
            raise ExportError(f"onnx: {reason(error)}") from error
        assert told is not None
        told.model.metadata_props.update(whole.facts)
        told.save(file)
        if precision == "int8":
            _quantize(file)

    def open(self, file: Path) -> tuple[Callable[[Tensor], Tensor], dict[str, str]]:
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        failures = (
            state.Fail,
            state.InvalidArgument,
            state.InvalidGraph,
            state.NotImplemented,
            state.RuntimeException,
        )
        _whole(file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as many as the artifact has
        options.log_severity_level = 3  # errors
        try:
            session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        except failures as error:
            raise ExportError(f"onnx: {reason(error)}") from error

        def run(x: Tensor) -> Tensor:
            try:
                (shares,) = session.run(None, {"input": x.numpy()})
            except failures as error:
                raise ExportError(f"onnx: {tuple(x.shape)}: {reason(error)}") from error
            return torch.from_numpy(shares)

        return run, dict(session.get_modelmeta().custom_metadata_map)


def _whole(file: Path) -> None:
    """Raises ExportError where a weight lies in another file, which would be opened, too."""
    import onnx

    for weight in onnx.load(file, load_external_data=False).graph.initializer:
        if onnx.external_data_helper.uses_external_data(weight):
            told = f"the weight {shown(weight.name)} lies in another file"
            raise ExportError(f"onnx: {file}: {told}; want all in one")


def _recurrent(name: str) -> Callable[..., Any]:
    """How the operator of `whole` is said in ONNX."""
    from onnxscript import opset18

    op: Any = opset18  # its stubs know no constants

    kind, gates, more = GATES[name]

    def translated(x: Any, state: Any, weights: Any, *_: Any) -> tuple[Any, ...]:
        def ordered(weight: Any) -> Any:
            if len(gates) == 1:
                return weight
            parts = op.Split(weight, num_outputs=len(gates), axis=0)
            return op.Concat(*[parts[gate] for gate in gates], axis=0)

        w, r, b, c = map(ordered, weights)
        hidden = (state[0] if isinstance(state, list | tuple) else state).shape[2]
        told = getattr(op, kind)(
            op.Transpose(x, perm=[1, 0, 2]),
            op.Unsqueeze(w, [0]),
            op.Unsqueeze(r, [0]),
            op.Unsqueeze(op.Concat(b, c, axis=0), [0]),
            hidden_size=hidden,
            **more,
        )
        return (op.Transpose(op.Squeeze(told[0], [1]), perm=[1, 0, 2]), *told[1:])

    return translated


def _quantize(file: Path) -> None:
    """In its place. Raises ExportError where most weights are out of its reach."""
    import onnx
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    facts = {prop.key: prop.value for prop in onnx.load(file).metadata_props}
    with tempfile.TemporaryDirectory() as folder, quiet():
        plain = Path(folder) / "plain.onnx"
        quant_pre_process(file, plain, skip_symbolic_shape=True)
        quantization.quantize_dynamic(plain, file, weight_type=quantization.QuantType.QInt8)
    made = onnx.load(file)
    onnx.helper.set_model_props(made, facts)
    onnx.save(made, file)
    kept, weights, eight = 0, 0, (onnx.TensorProto.INT8, onnx.TensorProto.UINT8)
    for weight in made.graph.initializer:
        weights += math.prod(weight.dims)
        kept += math.prod(weight.dims) * (weight.data_type in eight)
    if kept < weights / 2:
        stay = sorted(
            {node.op_type for node in made.graph.node} & {kind for kind, *_ in GATES.values()}
        )
        told = f"the weights of {' and '.join(stay)} stay float32, " if stay else ""
        told += f"{kept / weights:.0%} of all can be made so; want float16"
        raise ExportError(f"onnx: --precision int8: {told}")
