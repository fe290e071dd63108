"""From what the user calls a model to where it is. No torch here."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

from distillability.errors import UserError
from distillability.models.gguf import is_gguf

__all__ = ["adapted_model", "has_tokenizer", "is_hub_id", "lab_folder", "lab_models", "locate"]

_LAB = "lab:"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def lab_folder() -> Path:
    """The folder of the package that holds the lab's models, as FAMILY/NAME."""
    return Path(str(files("distillability") / "lab"))


def lab_models() -> dict[str, Path]:
    """The lab's models that exist, by their reference `lab:FAMILY/NAME`."""
    found = sorted(lab_folder().glob("*/*/config.json"))
    return {f"{_LAB}{path.parent.parent.name}/{path.parent.name}": path.parent for path in found}


def locate(reference: str) -> str:
    """A local path for `lab:FAMILY/NAME`, for a folder and for a GGUF file, else the hub id.

    Raises:
        UserError: there is no such lab model or file; or the reference is neither a folder that exists nor a possible hub id.
    """
    if reference.startswith(_LAB):
        known = lab_models()
        if reference not in known:
            raise UserError.single(
                reference,
                "there is no such lab model",
                f"use one of {', '.join(known)}" if known else "build them: distillability lab build",
            )
        return str(known[reference])
    path = Path(reference).expanduser()
    if path.exists():
        return str(path)
    if is_gguf(reference):
        raise UserError.single(reference, "there is no such file", "give the path of a GGUF file, or a Hugging Face folder")
    if not is_hub_id(reference):
        raise UserError.single(
            reference or "''", "there is no such model folder", "give a Hugging Face folder, a hub id, or lab:FAMILY/NAME"
        )
    return reference


def adapted_model(folder: Path) -> str | None:
    """What an adapter's folder calls the model that it changes; None where the folder is no adapter's.

    Raises:
        UserError: it does not say, or that model is not where it was.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return None
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
        locate(str(base))
    except (ValueError, LookupError, TypeError) as error:
        raise UserError.single(str(file), f"does not name the model it changes ({error!r})", "save the adapter again") from None
    except UserError as error:
        fix = "put it back, or write its new place into base_model_name_or_path of adapter_config.json"
        raise UserError.single(str(folder), f"the model of this adapter, {base}, is not there", fix) from error
    return str(base)


def has_tokenizer(folder: Path) -> bool:
    """Whether there are a tokenizer's files in a folder."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model"))


def is_hub_id(reference: str) -> bool:
    """Whether a reference has the form of a hub id, NAME or OWNER/NAME."""
    return _HUB_ID.fullmatch(reference) is not None
