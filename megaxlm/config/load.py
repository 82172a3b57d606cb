"""Reads a YAML config, applies dotted overrides, validates it, and says in one line what is wrong.

Every message names the file and line (or the `--set`) that the value came from, the key, and the
nearest valid key where one was misspelt.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from megaxlm.errors import UserError

Config = TypeVar("Config", bound=BaseModel)
KeyPath = tuple[str | int, ...]


def load_config(schema: type[Config], path: Path, overrides: Sequence[str] = ()) -> Config:
    """Loads and validates one config file.

    Args:
        schema: The pydantic model that describes it.
        path: A YAML file.
        overrides: `KEY=VALUE` strings; KEY is dotted (`training.max_steps`), VALUE is YAML.

    Raises:
        UserError: The file is missing or not YAML, or a key or value is wrong.
    """
    tree, origins = _read_yaml(path)
    for override in overrides:
        _apply_override(tree, origins, override)
    return validate(schema, tree, origins, str(path))


def validate(
    schema: type[Config], tree: dict[str, Any], origins: dict[KeyPath, str], where: str
) -> Config:
    """Validates a parsed tree; `origins` says which file and line each key came from."""
    try:
        return schema.model_validate(tree)
    except ValidationError as error:
        raise UserError(_first_problem(schema, error, origins, where)) from None


def dump_config(config: BaseModel) -> str:
    """Returns the complete config, defaults filled in, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[KeyPath, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        near = difflib.get_close_matches(path.name, _siblings(path), n=1)
        hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
        raise UserError(f"{path}: no such config file{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot read the config: {reason}") from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).replace("\n", " ")
        raise UserError(f"{path}{line}: not valid YAML: {problem}") from None
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{path}: expected `key: value` lines at the top level")
    origins: dict[KeyPath, str] = {}
    constructor = yaml.SafeLoader("")

    def build(item: yaml.Node, keys: KeyPath) -> Any:
        origins[keys] = f"{path}:{item.start_mark.line + 1}"
        if isinstance(item, yaml.MappingNode):
            mapping: dict[str, Any] = {}
            for key_node, value_node in item.value:
                key = str(key_node.value)
                line = f"{path}:{key_node.start_mark.line + 1}"
                if key in mapping:
                    raise UserError(f"{line}: {_dotted((*keys, key))} is given twice; keep one")
                mapping[key] = build(value_node, (*keys, key))
                origins[(*keys, key)] = line
            return mapping
        if isinstance(item, yaml.SequenceNode):
            return [build(value, (*keys, index)) for index, value in enumerate(item.value)]
        # Language codes are the trap of YAML 1.1: `no` (Norwegian) is not a boolean here.
        if item.tag == "tag:yaml.org,2002:bool" and item.value.lower() not in ("true", "false"):
            return item.value
        try:
            return constructor.construct_object(item)
        except (yaml.YAMLError, ValueError) as error:  # a tag such as `!x`, or `!!int a`
            problem = getattr(error, "problem", None) or str(error)
            raise UserError(
                f"{origins[keys]}: {_dotted(keys)}: not plain YAML: {problem}"
            ) from None

    return build(node, ()), origins


def _siblings(path: Path) -> list[str]:
    try:
        return [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return []


def _apply_override(tree: dict[str, Any], origins: dict[KeyPath, str], override: str) -> None:
    name, separator, text = override.partition("=")
    if not separator or not name:
        raise UserError(f"--set {override}: expected KEY=VALUE, e.g. seed=1")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not valid YAML") from None
    if isinstance(value, bool) and text.lower() not in ("true", "false"):
        value = text
    keys: list[str | int] = [int(part) if part.isdigit() else part for part in name.split(".")]
    target: Any = tree
    for depth, key in enumerate(keys[:-1]):
        if isinstance(target, list) and isinstance(key, int) and key < len(target):
            target = target[key]
            continue
        if isinstance(target, dict) and isinstance(key, str):
            if target.get(key) is None:
                target[key] = {}
                origins[tuple(keys[: depth + 1])] = f"--set {override}"
            target = target[key]
            continue
        raise UserError(f"--set {override}: {_dotted(tuple(keys[: depth + 1]))} does not exist")
    last = keys[-1]
    if isinstance(target, dict):
        target[str(last)] = value
    elif isinstance(target, list) and isinstance(last, int) and last < len(target):
        target[last] = value
    else:
        raise UserError(f"--set {override}: {_dotted(tuple(keys[:-1]))} has no {last!r}")
    origins[tuple(keys)] = f"--set {override}"


def _dotted(keys: Iterable[str | int]) -> str:
    return ".".join(str(key) for key in keys)


def _first_problem(
    schema: type[BaseModel],
    error: ValidationError,
    origins: dict[KeyPath, str],
    where: str,
) -> str:
    problems = error.errors()
    # An unknown key is usually the cause of a missing one, so it is named first.
    problem = min(problems, key=lambda item: item["type"] != "extra_forbidden")
    keys = tuple(key for key in problem["loc"] if not _is_branch(key))
    if problem["type"] == "model_type":
        problem["msg"] = "is a section: give keys under it, or {} for what they are by default"
    origin = next(
        (origins[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in origins), where
    )
    name = _dotted(keys) or "the config"
    if problem["type"] == "extra_forbidden":
        valid = _valid_keys(schema, keys[:-1])
        near = difflib.get_close_matches(str(keys[-1]), valid, n=1, cutoff=0.5)
        said = f"did you mean `{near[0]}`?" if near else f"valid here: {', '.join(sorted(valid))}"
        text = f"{origin}: unknown key `{name}`; {said}"
    elif problem["type"] == "missing":
        text = f"{origin}: `{name}` is required and not given"
    else:
        message = problem["msg"].removeprefix("Value error, ").replace("\n", " ")
        message = message[:1].lower() + message[1:]
        given = problem["input"]
        shown = f", got {given!r}" if isinstance(given, str | int | float | None) else ""
        text = f"{origin}: `{name}`: {message}{shown}"
    others = len(problems) - 1
    return text + (f" (and {others} more)" if others else "")


def _is_branch(key: str | int) -> bool:
    """Whether a part of pydantic's location names a branch of a union rather than a key."""
    return isinstance(key, str) and (
        key.startswith(("literal[", "function-", "constrained-")) or key in ("int", "str", "[key]")
    )


def _valid_keys(schema: type[BaseModel], keys: KeyPath) -> list[str]:
    model: Any = schema
    for key in keys:
        if isinstance(key, int):
            continue
        model = _section_of(model.model_fields[key].annotation)
    return list(model.model_fields)


def _section_of(annotation: Any) -> Any:
    """Finds the section inside `Section`, `list[Section]` or `Section | None`."""
    if get_origin(annotation) in (Union, UnionType, list, tuple):
        for argument in get_args(annotation):
            found = _section_of(argument)
            if found is not None:
                return found
        return None
    is_section = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_section else None
