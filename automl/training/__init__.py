"""One config to one trained model. Knows nothing of studies or terminals."""

from automl.training.loop import Diverged, evaluate, train

__all__ = ["Diverged", "evaluate", "train"]
