"""How keys are read and checked: YAML first, then overrides, then validation. What they are is in `config.py`."""

import difflib
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from ilpjax.errors import InputError


class Config(BaseModel):
    """Frozen, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _merge_defaults(cls, values: Any) -> Any:
        """A section given in part keeps the job's defaults for the rest, not the section class's."""
        if not isinstance(values, dict):
            return values
        merged = dict(values)
        for name, field in cls.model_fields.items():
            if isinstance(field.default, Config) and isinstance(merged.get(name), dict):
                merged[name] = field.default.model_dump() | merged[name]
        return merged

    @classmethod
    def make(cls, values: dict[str, Any], where: str = "") -> Self:
        """Raises InputError naming the key, what is wrong and, for an unknown key, the nearest known one."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InputError(_explain(cls, error, where)) from None

    @classmethod
    def from_args(cls, args: Sequence[str]) -> Self:
        """`[CONFIG.yaml] [dotted.key=value ...]`. Values are read as YAML: `orders=4`, `rows=[a.jsonl,b.jsonl]`."""
        values: dict[str, Any] = {}
        where = ""
        for n, arg in enumerate(args):
            if "=" in arg:
                key, _, text = arg.partition("=")
                _set(values, key, _yaml(text, key))
            elif n == 0:
                where, values = f"{arg}: ", _read_yaml(Path(arg))
            else:
                raise InputError(f"{arg}: not understood; after the config file come key=value pairs")
        return cls.make(values, where)


def describe(cls: type[Config], prefix: str = "") -> list[tuple[str, str, str, str]]:
    """(dotted key, type, default, description) of every key; what `--help` prints."""
    lines = []
    for name, field in cls.model_fields.items():
        name = field.alias or name
        section = _section(field.annotation)
        if section is not None and not field.is_required() and field.default is not None:
            default = field.default
            for key, kind, _, text in describe(section):
                lines.append((f"{prefix}{name}.{key}", kind, _show(_get(default, key)), text))
        elif section is not None:
            lines += describe(section, f"{prefix}{name}.")
        else:
            default = "required" if field.is_required() else _show(field.default)
            lines.append((prefix + name, _kind(field.annotation), default, field.description or ""))
    return lines


def _section(annotation: Any) -> type[Config] | None:
    kinds = typing.get_args(annotation) or (annotation,)
    return next((k for k in kinds if isinstance(k, type) and issubclass(k, Config)), None)


def _get(value: Any, key: str) -> Any:
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _show(value: Any) -> str:
    return "none" if value is None else str(value)


def _kind(annotation: Any) -> str:
    if typing.get_origin(annotation) is Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace(" | None", "").replace("NoneType", "none")


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"{where}: {text!r} is not a YAML value") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path}: no such config file (a value is given as key=value)")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not YAML ({getattr(error, 'problem', None) or 'cannot be read'})") from None
    if not isinstance(values or {}, dict):
        raise InputError(f"{path}: expected key: value lines")
    return values or {}


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        inner = values.setdefault(section, {})
        if not isinstance(inner, dict):
            raise InputError(f"{dotted}: {section} is a value, not a section")
        values = inner
    values[name] = value


def _explain(cls: type[Config], error: ValidationError, where: str) -> str:
    first = min(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    known = [name for name, *_ in describe(cls)]
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, known, n=1) or [
            k for k in known if k.split(".")[-1] == key.split(".")[-1]
        ]
        hint = f"; did you mean {near[0]}?" if near else "; --help lists every key"
        return f"{where}{key}: no such key{hint}"
    if first["type"] == "missing":
        return f"{where}{key}: required, and not given"
    return f"{where}{key}: {first['msg'].lower()}, got {first['input']!r}"
