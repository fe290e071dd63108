"""Rows of a data set, wherever it lies: each with a place that an error can name."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distillability.errors import Problem, UserError

__all__ = ["Row", "read_rows"]

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_BUILDERS = {".json": "json", ".parquet": "parquet"}  # of `datasets`, by a file's suffix
_FORMS = (".jsonl", *_DELIMITERS, *_BUILDERS)


@dataclass(frozen=True)
class Row:
    """One row: `where` it is, as an error says it; `id`, short and the same on every machine; its columns."""

    where: str
    id: str
    values: dict[str, Any]


def read_rows(path: str, *, subset: str | None = None, split: str | None = None, revision: str | None = None) -> Iterator[Row | Problem]:
    """The rows of a file, of a folder, or of a set of the hub; a problem in the place of one that is none.

    JSONL and CSV are read line by line, so that a bad row has a line number and a text of digits stays a text; all else goes through
    `datasets`, which keeps a copy in its cache.

    Raises:
        UserError: there is no such data, it is of no known form, or subset or split must be named otherwise.
    """
    local = Path(path).expanduser()
    if local.is_dir() or not (local.is_file() or local.suffix in _FORMS):
        return _from_datasets(path, local, subset, split, revision)
    given = [key for key, value in (("subset", subset), ("split", split), ("revision", revision)) if value is not None]
    if given:
        raise UserError.single(path, f"a file has no {', '.join(given)}", f"leave out tasks.{given[0]}, or name a folder or a hub id")
    if not local.is_file():
        raise UserError.single(path, "there is no such file", "give the path of a file, a folder, or a hub id in tasks.path")
    if local.suffix not in _FORMS:
        raise UserError.single(path, "a file of no form that can be read here", f"give one of {', '.join(_FORMS)}, a folder, or a hub id")
    if local.suffix == ".jsonl":
        return _from_jsonl(local)
    return _from_csv(local, _DELIMITERS[local.suffix]) if local.suffix in _DELIMITERS else _from_file(local)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError.single(str(path), f"not a text in UTF-8 ({error})", "save it in that encoding") from error


def _from_jsonl(path: Path) -> Iterator[Row | Problem]:
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            yield Problem(where, f"not JSON ({error.msg})", "one JSON object a line")
            continue
        if isinstance(values, dict):
            yield Row(where, f"{path.name}:{number}", values)
        else:
            yield Problem(where, f"a JSON {type(values).__name__}, not an object", 'write {"prompt": …, "answer": …}')


def _from_csv(path: Path, delimiter: str) -> Iterator[Row | Problem]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter=delimiter, strict=True)
    try:
        for values in rows:
            where = f"{path}:{rows.line_num}"
            if None in values:
                yield Problem(where, f"more fields than the {len(rows.fieldnames or ())} columns", "quote a text that holds a delimiter")
            else:
                yield Row(where, f"{path.name}:{rows.line_num}", values)
    except csv.Error as error:
        yield Problem(f"{path}:{rows.line_num}", f"not CSV ({error})", "quote texts with double quotes, doubled inside a text")


def _from_file(path: Path) -> Iterator[Row | Problem]:
    datasets = _library(str(path))
    try:
        data = datasets.load_dataset(_BUILDERS[path.suffix], data_files=str(path), split="train")
    except Exception as error:  # the library raises what its readers raise
        raise UserError.single(str(path), f"cannot be read as {path.suffix}: {_first_line(error)}", "write the file again") from error
    return _numbered(str(path), path.name, data)


def _from_datasets(path: str, local: Path, subset: str | None, split: str | None, revision: str | None) -> Iterator[Row | Problem]:
    datasets = _library(path)
    try:
        saved = local / "dataset_dict.json", local / "dataset_info.json"  # what `save_to_disk` writes
        if any(file.is_file() for file in saved):
            data = datasets.load_from_disk(str(local))
            data = data if split is None else _of_saved(datasets, data, split)
        else:
            data = datasets.load_dataset(str(local) if local.is_dir() else path, subset, split=split, revision=revision)
    except Exception as error:  # the library raises what its readers and the network raise
        raise UserError.single(
            path,
            f"no data set that can be loaded: {_first_line(error)}",
            "give a file, a folder or a hub id in tasks.path, and its tasks.subset and tasks.split; or download it while online",
        ) from error
    if isinstance(data, dict):
        if len(data) > 1:
            names = ", ".join(map(str, data))
            raise UserError.single(path, f"has several splits: {names}", f'name one in tasks.split, or several as "{"+".join(data)}"')
        data = next(iter(data.values()))
    return _numbered(path, Path(path).name, data)


def _of_saved(datasets: Any, data: Any, split: str) -> Any:
    """The named splits of a folder that `save_to_disk` wrote, one after another."""
    return datasets.concatenate_datasets([data[name.strip()] for name in split.split("+")])


def _numbered(where: str, name: str, data: Any) -> Iterator[Row | Problem]:
    for number, values in enumerate(data):
        yield Row(f"{where}, row {number}", f"{name}:{number}", values)


def _library(path: str) -> Any:
    if find_spec("datasets") is None:
        raise UserError.single(path, "reading it needs the package datasets", "pip install 'distillability[train]', or give JSONL or CSV")
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
