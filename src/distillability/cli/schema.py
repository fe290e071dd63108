"""`distillability schema`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from distillability.cli.console import guarded, say, say_json
from distillability.cli.options import Debug, Json

__all__ = ["schema"]

_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "minItems": "at least"}


def schema(
    field: Annotated[
        str, typer.Argument(metavar="[FIELD]", help="A dotted recipe key, for example calibrate.teachers.", show_default=False)
    ] = "",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Explain the keys of a recipe."""
    with guarded(debug=debug, as_json=json):
        from distillability.config.nearest import nearest
        from distillability.config.schema import describe, fields_at
        from distillability.errors import UserError

        path = tuple(field.split(".")) if field else ()
        node = describe(path)
        if node is None:
            guess = nearest(path[-1], fields_at(path[:-1]))
            fix = f"did you mean {guess!r}?" if guess else "`distillability schema` lists all"
            raise UserError.single(field, "no such key in a recipe", fix)
        if json:
            say_json(node)
            return
        for line in list(_lines(path)) or [_line(path, node)]:
            say(line)


def _lines(path: tuple[str, ...]) -> Iterator[str]:
    from distillability.config.schema import describe, fields_at

    for name, node in fields_at(path).items():
        inside = (*path, name)
        named = (*inside, "NAME")
        deeper = inside if fields_at(inside) else named if describe(named) and fields_at(named) else None
        if deeper is None:
            yield _line(inside, node)
        else:
            yield from _lines(deeper)


def _line(path: tuple[str, ...], node: dict[str, Any]) -> str:
    default = f" = {node['default']!r}" if "default" in node else ""
    description = f"\n    {node['description']}" if "description" in node else ""
    return f"{'.'.join(path)}: {_type(node)}{default}{description}"


def _type(node: dict[str, Any]) -> str:
    if "anyOf" in node:
        return " or ".join(_type(member) for member in node["anyOf"])
    if "enum" in node or "const" in node:
        return " | ".join(f'"{value}"' for value in node.get("enum", [node.get("const")]))
    kind = node.get("format") or node.get("type", "table")
    kind = {"null": '"none"', "array": "list", "object": "table"}.get(kind, kind)
    inside = node.get("items") or node.get("additionalProperties")
    of = f" of {_type(inside)}" if isinstance(inside, dict) and inside.keys() & {"type", "enum", "anyOf"} else ""
    bounds = "".join(f" {sign} {node[key]}" for key, sign in _BOUNDS.items() if key in node)
    return f"{kind}{of}{bounds}"
