"""From a TOML file and `--set` to a checked recipe; every problem is reported at once."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from distillability.config.nearest import nearest
from distillability.config.recipe import Recipe
from distillability.config.schema import fields_at
from distillability.errors import Problem, UserError

__all__ = ["canonical_json", "changed_keys", "load_recipe", "read_recipe", "recipe_digest"]

KeyPath = tuple[str | int, ...]

# What a key that cannot be dropped becomes while the rest of a broken recipe is still checked.
_STAND_INS: dict[str, Any] = {"name": "recipe", "queries": 1, "steps": 1, "max_completion_length": 2}
_MENDS = {
    "evaluate": "raise the one, or lower the other",
    "num_generations": "GRPO compares the completions of one prompt, so a group needs 2 or more; 8 is usual",
    "prompt_template": "columns by their names in braces, as {question}; {{ and }} for the braces themselves",
    "grader": "exact compares the whole text; write your own as module:function",
    "reward_model": "the folder or hub id of a sequence-classification model with one output",
    "threshold": "a score that the plain teacher reaches about every other time",
    "name": "use letters, digits, dots, dashes and underscores: it names a folder",
    "knobs": "two or more numbers, each once: knobs = [-1, -0.1, 0, 0.1, 1] under [sweep], or --knobs -1,-0.1,0,0.1,1",
}
_RENAMED = {"universal_weight": "uld_weight"}
_SEGMENT = re.compile(r'"([^"]*)"|([^.]+)')


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file (or of the `recipe.json` of a run), with `KEY=VALUE` overrides.

    Raises:
        UserError: all that is wrong with the file and the overrides.
    """
    recipe, problems = read_recipe(path, overrides)
    if problems or recipe is None:
        raise UserError(problems)
    return recipe


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> tuple[Recipe | None, list[Problem]]:
    """As `load_recipe`, but the problems are returned, so that a caller can add its own before it gives up.

    Beside problems comes the recipe without the keys that are wrong, for further checks only; None where even that is no recipe.
    """
    try:
        raw, text = _parse(path)
    except UserError as error:
        return None, list(error.problems)
    lines = {} if path.suffix == ".json" else _key_lines(text)
    problems, origins = _apply_overrides(raw, overrides)
    recipe, found = _validate(raw)
    problems += [_problem(error, raw, str(path), lines, origins) for error in found]
    return recipe, problems


def _parse(path: Path) -> tuple[dict[str, Any], str]:
    """The table in a TOML or JSON file, and the file's text.

    Raises:
        UserError: there is no such file, or it holds something else.
    """
    again = "restore it, or start a new run from the TOML recipe"
    try:
        text = path.read_text(encoding="utf-8")
        raw = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except FileNotFoundError:
        raise UserError.single(str(path), "there is no such recipe", "give the path of a TOML file, such as recipes/lab.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError.single(str(path), f"cannot be read ({error})", "give the path of a TOML file") from None
    except tomllib.TOMLDecodeError as error:
        fix = "strings need quotes, tables a [name], each key its own line"
        raise UserError.single(str(path), f"not TOML: {error}", fix) from None
    except json.JSONDecodeError as error:
        raise UserError.single(str(path), f"not JSON: {error}", again) from None
    if not isinstance(raw, dict):
        raise UserError.single(str(path), "not a table of keys and values", again)
    return raw, text


def canonical_json(recipe: Recipe) -> str:
    """The recipe with every default written out, keys sorted, no spaces: equal recipes give equal text."""
    return json.dumps(recipe.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def recipe_digest(recipe: Recipe) -> str:
    """SHA-256 of `canonical_json`, in hexadecimal."""
    return hashlib.sha256(canonical_json(recipe).encode()).hexdigest()


def changed_keys(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """The dotted keys on which two recipes differ, each with (before, after); None for a key that one of them lacks."""
    old, new = (dict(_leaves(recipe.model_dump(mode="json"))) for recipe in (before, after))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items:
        yield path, value
        return
    for key, inside in items:
        yield from _leaves(inside, f"{path}.{key}" if path else str(key))


# --- overrides ---------------------------------------------------------------------------------------------------------------------


def _apply_overrides(raw: dict[str, Any], overrides: Sequence[str]) -> tuple[list[Problem], dict[KeyPath, str]]:
    """Write the overrides into `raw`; returns problems, and which override wrote which path."""
    problems: list[Problem] = []
    origins = {}
    for override in overrides:
        where = f"--set {override}"
        try:
            for segments, value in _settings(override):
                origins[_assign(raw, segments, value)] = where
        except UserError as error:
            problems += error.problems
        except LookupError as error:
            problems.append(Problem(where, str(error.args[0]), "`distillability schema` lists the keys"))
    return problems, origins


def _settings(override: str) -> Iterator[tuple[list[str], Any]]:
    """The keys that one override sets: KEY=VALUE, or all that a TOML file says, a task's under [tasks.NAME] or [tasks.0].

    Raises:
        UserError: it is neither, or there is no such file.
    """
    key, equals, text = override.partition("=")
    if equals and key.strip():
        yield _segments(key), _value(text.strip())
    elif override.endswith(".toml"):
        yield from _tables(_parse(Path(override))[0])
    else:
        raise UserError.single(f"--set {override}", "not KEY=VALUE", "for example --set calibrate.max_steps=20, or a TOML file")


def _tables(raw: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[list[str], Any]]:
    """Every value of nested tables with the keys that lead to it; a list is one value."""
    for key, value in raw.items():
        if isinstance(value, dict) and (value or (not above and key in _sections())):  # an empty section names no key
            yield from _tables(value, (*above, key))
        else:
            yield [*above, key], value


def _sections() -> dict[str, Any]:
    """The recipe's own tables, with what they hold where nothing is said; not those that are asked for by being there."""
    return {key: field.default.model_dump() for key, field in Recipe.model_fields.items() if isinstance(field.default, BaseModel)}


def _segments(key: str) -> list[str]:
    return [quoted or bare.strip() for quoted, bare in _SEGMENT.findall(key)]


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _assign(raw: dict[str, Any], segments: Sequence[str], value: Any) -> KeyPath:
    """Set one place of `raw`; a table or list that is not there yet starts as the recipe's default for it."""
    here: Any = raw  # a table or a list, however deep
    default: Any = _sections()
    path: KeyPath = ()
    for position, segment in enumerate(segments):
        part: Any = _index(here, segment, path) if isinstance(here, list) else segment
        if not isinstance(here, dict | list):
            raise LookupError(f"{_dotted(path)} is a single value and has no {segment!r} inside")
        path += (part,)
        if position == len(segments) - 1:
            here[part] = value
            break
        default = _inside(default, part)
        if isinstance(here, dict) and part not in here:
            here[part] = copy.deepcopy(default) if isinstance(default, dict | list) else {}
        here = here[part]
    return path


def _index(items: list[Any], segment: str, path: KeyPath) -> int:
    if segment.isdigit() and int(segment) < len(items):
        return int(segment)
    names = [item.get("name") or item.get("type") if isinstance(item, dict) else None for item in items]
    if segment in names:
        return names.index(segment)
    known = [name for name in names if name] or [str(index) for index in range(len(items))]
    raise LookupError(f"{_dotted(path)} has no {segment!r}; it has {', '.join(known) or 'nothing'}")


def _inside(value: Any, part: str | int) -> Any:
    if isinstance(value, Mapping):
        return value.get(part)
    return value[part] if isinstance(value, list) and isinstance(part, int) and part < len(value) else None


# --- validation --------------------------------------------------------------------------------------------------------------------


def _validate(raw: dict[str, Any]) -> tuple[Recipe | None, list[Any]]:
    """The recipe with what is wrong, or the recipe that is left without it."""
    rest, wrong = copy.deepcopy(raw), list[Any]()
    for _ in range(3):  # what is wrong in one place can hide what is wrong in another
        try:
            return Recipe.model_validate(rest), wrong
        except ValidationError as error:
            found = error.errors()
        told = {str(each["msg"]) for each in wrong}
        wrong += [each for each in found if not told or (each["type"] == "value_error" and each["msg"] not in told)]
        for each in found:
            _drop(rest, each["loc"])
    return None, wrong


def _drop(raw: Any, loc: KeyPath) -> None:
    path = _raw_path(raw, loc)
    while path and isinstance(path[-1], int):  # without one element the others would change their places: the list goes as a whole
        path = path[:-1]
    for part in path[:-1]:
        raw = _inside(raw, part)
    if not path or not isinstance(raw, dict):
        return
    raw.pop(path[-1], None)
    if path[-1] in _STAND_INS:
        raw[path[-1]] = _STAND_INS[str(path[-1])]


def _raw_path(raw: Any, loc: KeyPath) -> KeyPath:
    """Where an error is in the recipe as written: pydantic puts the tag of a union among the keys."""
    path: KeyPath = ()
    for position, part in enumerate(loc):
        is_tag = isinstance(raw, Mapping) and raw.get("type") == part and position < len(loc) - 1
        if not is_tag:
            path += (part,)
            raw = _inside(raw, part)
    return path


def _problem(error: Any, raw: dict[str, Any], file: str, lines: dict[KeyPath, int], origins: dict[KeyPath, str]) -> Problem:
    path = _raw_path(raw, error["loc"])
    named = [part for part in path if isinstance(part, str)]  # of a list's element, the list
    key, parent = (named[-1] if named else ""), named[:-1]
    what, fix = _explain(error, key, fields_at(error["loc"][:-1]))
    return Problem(_where(path, file, lines, origins), f"{_dotted(path)}: {what}" if path else what, fix or _see(parent, key))


def _explain(error: Any, key: str, known: dict[str, Any]) -> tuple[str, str]:
    """What is wrong and how to fix it; an empty fix where the field's own description serves best."""
    given = error["input"]
    match error["type"]:
        case "extra_forbidden" if key in _RENAMED:
            return "the key has a new name", f"write {_RENAMED[key]}"
        case "extra_forbidden":
            guess = nearest(key, known)
            return "unknown key", f"did you mean {guess!r}?" if guess else f"known here: {', '.join(known)}"
        case "missing":
            description = known.get(key, {}).get("description", "")
            return "missing", f"add {key} = … ({description})" if description else f"add {key} = …"
        case "union_tag_not_found":
            return "a task without a type", 'add type = "maths", "knowledge", "instructions" or "data"'
        case "union_tag_invalid":
            return f"unknown task type {error['ctx']['tag']!r}", f"use one of {error['ctx']['expected_tags']}"
        case "literal_error":
            guess = nearest(str(given), re.findall(r"'([^']*)'", error["ctx"]["expected"]))
            return f"{given!r} is none of {error['ctx']['expected']}", f"did you mean {guess!r}?" if guess else "use one of those"
        case "value_error":
            what, *fix = error["ctx"]["error"].args
            return what, fix[0] if fix else _MENDS.get(key, "")
        case _:
            message = error["msg"].replace("Input should", "should").replace("String should", "should").replace(" after validation", "")
            shown = "" if isinstance(given, dict | list) else f", not {given!r}"
            return f"{message}{shown}", _MENDS.get(key, "")


def _see(parent: Sequence[str], key: str) -> str:
    dotted = ".".join((*parent, key))
    return f"see `distillability schema {dotted}`"


def _dotted(path: KeyPath) -> str:
    return ".".join(f'"{part}"' if "." in str(part) else str(part) for part in path) or "the recipe"


def _where(path: KeyPath, file: str, lines: dict[KeyPath, int], origins: dict[KeyPath, str]) -> str:
    """The override or the line that wrote `path`, or else what lies nearest around it."""
    inside = {origin[: len(path)]: override for origin, override in origins.items()}
    for length in range(len(path), 0, -1):
        if path[:length] in origins:
            return origins[path[:length]]
        if path[:length] in lines:
            return f"{file}:{lines[path[:length]]}"
        if path in inside:
            return inside[path]
    return file


_HEADER = re.compile(r"\s*(\[\[|\[)\s*([^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(r"""\s*((?:"[^"]*"|'[^']*'|[A-Za-z0-9_.-]|\s*\.\s*)+?)\s*=""")


def _key_lines(text: str) -> dict[KeyPath, int]:
    """The line of every key and table. A guide for people: keys of inline tables are found at their outermost key."""
    lines: dict[KeyPath, int] = {}
    counts: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = ()
            segments = _segments(header[2].replace("'", '"'))
            for position, segment in enumerate(segments):
                table += (segment,)
                if header[1] == "[[" and position == len(segments) - 1:
                    counts[table] = counts.get(table, -1) + 1
                if table in counts:  # a later table inside a list belongs to its last element
                    table += (counts[table],)
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault(table + tuple(_segments(key[1].replace("'", '"'))), number)
    return lines
