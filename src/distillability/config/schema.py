"""Questions about the recipe's own schema: which fields exist at a place, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from distillability.config.recipe import Recipe

__all__ = ["Node", "describe", "fields_at"]

Node = dict[str, Any]


@cache
def _schema() -> Node:
    return Recipe.model_json_schema()


def _follow(node: Node) -> Node:
    """The node that a reference stands for, that of a table which may be left out as well; what is said beside the reference wins."""
    references = [each for each in node.get("anyOf", ()) if "$ref" in each]
    if len(references) == 1:
        node = {key: value for key, value in node.items() if key != "anyOf"} | references[0]
    if "$ref" not in node:
        return node
    target = _schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return {**target, **{key: value for key, value in node.items() if key != "$ref"}}


def _variants(node: Node) -> dict[str, Node]:
    """The members of a union by tag; the node itself under an empty tag where it is none."""
    node = _follow(node)
    if "discriminator" not in node:
        return {"": node}
    return {tag: _follow({"$ref": reference}) for tag, reference in node["discriminator"]["mapping"].items()}


def _step(node: Node, part: str | int) -> list[Node]:
    """What `part` can mean at `node`. The index of a list and the tag of a union may be given or left out."""
    node = _follow(node)
    if "items" in node:
        return [node["items"]] if str(part).isdigit() else _step(node["items"], part)
    variants = _variants(node)
    if len(variants) > 1:
        return [variants[str(part)]] if part in variants else [found for variant in variants.values() for found in _step(variant, part)]
    if part in node.get("properties", {}):
        return [_follow(node["properties"][part])]
    free = node.get("additionalProperties")  # a table whose keys are the user's own names
    return [_follow(free)] if isinstance(free, dict) else []


def _nodes(path: Sequence[str | int]) -> list[Node]:
    nodes = [_schema()]
    for part in path:
        nodes = [found for node in nodes for found in _step(node, part)]
    return nodes


def fields_at(path: Sequence[str | int]) -> dict[str, Node]:
    """The fields that may be written at `path`; empty where there are none, or where any name will do."""
    found: dict[str, Node] = {}
    for node in _nodes(path):
        for variant in _variants(node.get("items", node)).values():
            for name, field in variant.get("properties", {}).items():
                found[name] = _merge(found.get(name), _follow(field))
    return found


def _merge(before: Node | None, field: Node) -> Node:
    """One field of several variants; where it is the tag that tells them apart, it can have the tag of each."""
    if before is None or "const" not in field:
        return field
    tags = before.get("enum") or [before["const"]]
    return {key: value for key, value in field.items() if key not in ("const", "default")} | {"enum": [*tags, field["const"]]}


def describe(path: Sequence[str | int]) -> Node | None:
    """The schema of one field; None where there is no such field."""
    nodes = _nodes(path)
    return nodes[0] if nodes else None
