"""What all tests stand on: a cache of their own, no data from outside, one thread."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOML_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("AUTOML_DATA", raising=False)
        torch.set_num_threads(1)  # as the workers do: two cores, several processes
        yield
