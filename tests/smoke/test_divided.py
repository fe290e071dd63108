"""The paper's recipe with tiny models in two processes: with weights divided by FSDP everything is what it is with whole ones.

accelerate gives FSDP to devices only, so here it is told that processors are some.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from command_line import ROOT, invoke, run
from distillability.models.load import LoadedModel
from processes import run_in_processes

sys.path.insert(0, str(ROOT / "scripts"))
from tiny_models import write

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_TORCH_DEVICE": "cpu",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}
RECIPE = [str(ROOT / "recipes/paper/qwen.toml"), "--set", str(ROOT / "recipes/paper/tiny.toml")]
SMALLER = [
    "--set=calibrate.teachers={distillable={knob=1.0}}",
    "--set=distill.arms=[{sources=['plain'],objectives=['seqkd']},{sources=['distillable'],objectives=['jsd'],on_policy_share=0.5}]",
]
OF_ALL_WEIGHTS = ["--set=calibrate.lora=none", "--set=calibrate.anchor_budget=0.02", "--set=calibrate.learning_rate=3e-2"]


def _divided(*arguments: str) -> None:
    """The command, in a process whose processor counts as a device."""
    from accelerate import state
    from accelerate.utils import DistributedType

    def devices(*_: Any, **__: Any) -> tuple[str, DistributedType]:
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")
        return "gloo", DistributedType.MULTI_GPU

    state.PartialState._prepare_backend = devices
    _by_generate(*arguments)


def _by_generate(*arguments: str) -> None:
    """The command, with completions by `generate` whatever our decoder can do: it draws other texts.

    The second process is late where it goes back to a checkpoint: nobody may have removed it by then.
    """
    from distillability.inference import generate
    from distillability.training import checkpoints

    load = checkpoints.load_model

    def late(*arguments: Any, **options: Any) -> LoadedModel:
        time.sleep(2 * int(os.environ["RANK"]))
        return load(*arguments, **options)

    checkpoints.load_model = late
    generate.unsupported = lambda model, length: "this comparison"  # type: ignore[assignment]
    invoke(*arguments)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("divided")
    write("qwen3", folder / "tiny")
    return folder


def _both(place: Path, name: str, verb: str, *settings: str) -> tuple[Path, Path]:
    """Two finished runs: of whole weights, of divided ones."""
    folders = place / f"{name}-whole", place / f"{name}-divided"
    for folder, command, environment in zip(folders, (_by_generate, _divided), ({"ACCELERATE_USE_CPU": "true"}, FSDP), strict=True):
        arguments = (verb, *RECIPE, *settings, "--out", str(folder))
        done = run_in_processes(command, *arguments, processes=2, environment=environment, cwd=place)
        assert [each.returncode for each in done] == [0, 0], done[0].stderr[-4000:] + done[1].stderr[-4000:]
    return folders


def _same_metrics(whole: Path, divided: Path) -> None:
    files = sorted(whole.rglob("metrics.jsonl"))
    assert files
    for file in files:
        rows = [[json.loads(line) for line in path.read_text().splitlines()] for path in (file, divided / file.relative_to(whole))]
        assert len(rows[0]) == len(rows[1]) > 0
        for a, b in zip(*rows, strict=True):
            numbers = [key for key in a if isinstance(a[key], float) and key != "seconds"]
            assert numbers and {key: b[key] for key in numbers} == pytest.approx({key: a[key] for key in numbers}, rel=1e-4, abs=1e-5), file
            assert [key for key in a if a[key] is None] == [key for key in b if b[key] is None]


def _same_weights(whole: Path, divided: Path) -> None:
    files = sorted(path for path in whole.rglob("*.safetensors") if "checkpoints" not in path.parts)
    assert files
    for file in files:
        ours, theirs = load_file(divided / file.relative_to(whole)), load_file(file)
        assert ours.keys() == theirs.keys() and ours
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs), file


@pytest.mark.slow
def test_a_run_with_an_adapter_and_students_of_their_own_texts(place: Path) -> None:
    whole, divided = _both(place, "run", "run", *SMALLER)
    _same_metrics(whole, divided)
    _same_weights(whole, divided)
    assert json.loads((divided / "results.json").read_text())["run"]["complete"]


def test_a_calibration_of_all_weights_that_goes_back_to_a_checkpoint(place: Path) -> None:
    whole, divided = _both(place, "back", "calibrate", *OF_ALL_WEIGHTS, "--set=calibrate.max_steps=4")
    for folder in (whole, divided):
        (outcome, _) = (json.loads(path.read_text()) for path in sorted(folder.glob("calibrate/*/*/seed-0/done.json")))
        assert outcome["kept_step"] < outcome["steps"] and "anchor" in outcome["stopped"]
    _same_weights(whole, divided)


@pytest.mark.parametrize(
    ("told", "where"),
    [
        ({"FSDP_VERSION": "1"}, "fsdp_version"),
        ({"FSDP_STATE_DICT_TYPE": "SHARDED_STATE_DICT"}, "fsdp_state_dict_type"),
        ({"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "fsdp_activation_checkpointing"),
        ({"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}, "fsdp_cpu_ram_efficient_loading"),
    ],
)
def test_settings_that_would_save_or_load_parts_are_refused(
    place: Path, told: dict[str, str], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (FSDP | told).items():
        monkeypatch.setitem(os.environ, name, value)
    done = run("validate", *RECIPE, check=False, cwd=place)
    assert done.returncode == 2 and where in done.stderr and "fix:" in done.stderr


def test_merging_an_adapter_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deepspeed = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "true"}
    for name, value in deepspeed.items():
        monkeypatch.setitem(os.environ, name, value)
    done = run("validate", *RECIPE, "--set=calibrate.lora.save=merged", check=False, cwd=place)
    assert done.returncode == 2
    assert all(where in done.stderr for where in ("calibrate.lora.save", "zero3_init_flag", "zero3_save_16bit_model"))
