"""What `accelerate launch` was told, as far as it can break a run: known before anything is loaded, from the environment it sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distillability.config.recipe import Recipe
from distillability.errors import Problem

__all__ = ["launch_problems"]


def launch_problems(recipe: Recipe, environment: Mapping[str, str]) -> Iterator[Problem]:
    """Settings under which models would be loaded or saved in parts; none where parameters are not divided."""

    def is_on(name: str) -> bool:
        return environment.get(name, "false").lower() == "true"

    if is_on("ACCELERATE_USE_FSDP"):
        yield from _fsdp_problems(environment.get("FSDP_VERSION"), environment.get("FSDP_STATE_DICT_TYPE"))
        if is_on("FSDP_ACTIVATION_CHECKPOINTING"):
            what = "FSDP's own checkpointing renames layers, and an adapter would be saved without its weights"
            fix = "leave it out, and set calibrate.activation_checkpointing and distill.activation_checkpointing in the recipe"
            yield Problem("fsdp_activation_checkpointing", what, fix)
        if is_on("FSDP_CPU_RAM_EFFICIENT_LOADING"):
            what = "all processes but the first would load empty models, proxies and students too"
            yield Problem("fsdp_cpu_ram_efficient_loading", what, "set it to false")
        yield from _merging_problems(recipe)
    if is_on("ACCELERATE_USE_DEEPSPEED") and environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE") == "3":
        if is_on("ACCELERATE_DEEPSPEED_ZERO3_INIT"):
            yield Problem("zero3_init_flag", "every model would be loaded in parts, proxies and students too", "set it to false")
        if not is_on("ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL"):
            yield Problem("zero3_save_16bit_model", "models would be saved in parts, which nothing here can load", "set it to true")
        yield from _merging_problems(recipe)


def _fsdp_problems(version: str | None, state_dict_type: str | None) -> Iterator[Problem]:
    if version != "2":
        what = f"FSDP version {version or 1}, whose parameters are views of one flat tensor, has not been made to work"
        yield Problem("fsdp_version", what, "set it to 2")
    if state_dict_type != "FULL_STATE_DICT":
        yield Problem("fsdp_state_dict_type", "models would be saved in parts, which nothing here can load", "set it to FULL_STATE_DICT")


def _merging_problems(recipe: Recipe) -> Iterator[Problem]:
    lora = recipe.calibrate.lora
    if recipe.calibrate.teachers and lora is not None and lora.save == "merged":
        what = "an adapter cannot be merged into weights of which each process has a part"
        yield Problem("calibrate.lora.save", what, 'set it to "adapter"; whatever loads the folder merges it')
