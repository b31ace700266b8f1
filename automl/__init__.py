"""Search for the best small neural network for your data.

study = automl.search("digits", trials=20)
study.best.predict(images)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from automl.config import (
        Augment,
        Config,
        Federation,
        Input,
        Model,
        Optimizer,
        Part,
        Pruner,
        Sampler,
        Schedule,
        Task,
    )
    from automl.data import Data, Epoch, Inputs, Metric, Ragged, Series, Split
    from automl.errors import AutomlError
    from automl.inputs.canvas import Canvas
    from automl.inputs.columns import Cells
    from automl.inputs.images import Images
    from automl.inputs.series import Lookback
    from automl.inputs.text import Tokens
    from automl.results.artifact import Artifact, Detection, Forecast, Prediction
    from automl.results.ensemble import Ensemble, load
    from automl.searching.run import search
    from automl.searching.study import Study, load_best
    from automl.space import Space
    from automl.training import train

_HOMES = {
    "automl.config": "Augment Config Federation Input Model Optimizer Part "
    "Pruner Sampler Schedule Task",
    "automl.data": "Data Epoch Inputs Metric Ragged Series Split",
    "automl.errors": "AutomlError",
    "automl.inputs.canvas": "Canvas",
    "automl.inputs.columns": "Cells",
    "automl.inputs.images": "Images",
    "automl.inputs.series": "Lookback",
    "automl.inputs.text": "Tokens",
    "automl.results.artifact": "Artifact Detection Forecast Prediction",
    "automl.results.ensemble": "Ensemble load",
    "automl.searching.run": "search",
    "automl.searching.study": "Study load_best",
    "automl.space": "Space",
    "automl.training": "train",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(_HOME)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import on first use: `import automl` and `automl --help` do not wait for torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'automl' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
