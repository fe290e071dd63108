"""What every test needs: no network, one thread, and tiny models built once."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")
sys.path.insert(0, str(Path(__file__).parent))

import pytest


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny random teacher, proxy and student."""
    import torch

    from tiny import tiny_models

    torch.set_num_threads(1)
    return tiny_models(tmp_path_factory.mktemp("models"))
