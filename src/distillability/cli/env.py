"""`distillability env`."""

from __future__ import annotations

import os

from distillability.cli.console import guarded, say, say_json
from distillability.cli.options import Debug, Json

__all__ = ["env"]

_VARIABLES = ("OMP_NUM_THREADS", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CUDA_VISIBLE_DEVICES")


def env(json: Json = False, debug: Debug = False) -> None:
    """Print versions, processor, code state and lab models."""
    with guarded(debug=debug, as_json=json):
        from distillability.models.locate import lab_models
        from distillability.runs.manifest import code_state, processor, versions

        found = {
            "versions": versions(),
            "processor": processor(),
            "code": {key: value for key, value in code_state().items() if key != "diff"},
            "variables": {name: os.environ.get(name) for name in _VARIABLES},
            "lab_models": list(lab_models()),
        }
        if json:
            say_json(found)
            return
        for title, entries in found.items():
            say(title)
            for line in entries.items() if isinstance(entries, dict) else ((entry, "") for entry in entries):
                say(f"  {line[0]}: {line[1]}".rstrip(": "))
