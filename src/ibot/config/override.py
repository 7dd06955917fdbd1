"""Settings as text and plain data: `section.key=value`, JSON in and out, differences."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from ibot.config.duration import Duration
from ibot.config.schema import Config
from ibot.errors import ConfigError


def apply(config: Config, assignments: Iterable[str], origin: str = "the command line") -> Config:
    """Return `config` with `section.key=value` assignments applied in order.

    Raises ConfigError for a missing '=', an unknown key (the nearest one is suggested) or a value
    of the wrong type.
    """
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(
                f"'{text}' is not a setting", why="no '=' in it", fix="write section.key=value"
            )
        key, value = _present_name(key.strip(), value.strip())
        section, name, hint = _find(config, key, origin)
        try:
            parsed = parse(value, hint)
        except ValueError as error:
            raise ConfigError(
                f"{key}={value} has the wrong type",
                why=str(error),
                fix=f"for example {key}={_example(hint, getattr(getattr(config, section), name))}",
            ) from None
        config = replace(config, **{section: replace(getattr(config, section), **{name: parsed})})
    return config


FORMER = {"mask.start_epoch": ("mask.start", "epochs")}
"""Settings that were a number: their name since they are a duration, and the unit of the number.
Users type them, and older runs hold them."""


def _present_name(key: str, value: Any) -> tuple[str, Any]:
    """A setting by its present name, and its value as that reads it."""
    if key not in FORMER:
        return key, value
    present, unit = FORMER[key]
    return present, f"{value} {unit}"


def with_former_names(plain: dict[str, Any]) -> dict[str, Any]:
    """What `to_plain` gave, as it was before settings were renamed, where they could say it.

    Names of runs are made of it: older ones are found again.
    """
    plain = dict(plain)
    for former, (present, unit) in FORMER.items():
        section, _, name = present.partition(".")
        length = Duration.parse(plain[section][name])
        if length.unit == unit and length.value.is_integer():
            old = former.partition(".")[2]
            plain[section] = {
                old if key == name else key: int(length.value) if key == name else value
                for key, value in plain[section].items()
            }
    return plain


Settings = TypeVar("Settings")


def assign(settings: Settings, assignments: Iterable[str], help_line: str) -> Settings:
    """Return a flat dataclass with `key=value` applied; raises as `apply`, advising `help_line`."""
    hints = _hints(type(settings))
    for text in assignments:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or key not in hints:
            nearest = difflib.get_close_matches(key, hints, 1, 0.6)
            fix = f"did you mean {nearest[0]}?   {help_line}" if nearest else help_line
            raise ConfigError(
                f"unknown setting '{key}'", why=f"known ones: {', '.join(hints) or 'none'}", fix=fix
            )
        try:
            settings = replace(settings, **{key: parse(value, hints[key])})  # pyright: ignore[reportArgumentType]
        except ValueError as error:
            example = _example(hints[key], getattr(settings, key))
            raise ConfigError(
                f"{key}={value} has the wrong type",
                why=str(error),
                fix=f"for example {key}={example}",
            ) from None
    return settings


def settings_of(settings: Any) -> list[tuple[str, str]]:
    """Names and values of a flat dataclass as `assign` reads them."""
    return [(f.name, show(getattr(settings, f.name))) for f in fields(settings)]


def parse(text: str, hint: Any) -> Any:
    """Read `text` as a value of type `hint`. Raises ValueError that says what was expected."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if text not in args:
            nearest = difflib.get_close_matches(text, args, 1)
            suggestion = f"; did you mean {nearest[0]}?" if nearest else ""
            raise ValueError(f"expected one of {', '.join(args)}, not '{text}'{suggestion}")
        return text
    if origin in (Union, types.UnionType):
        if text.lower() in ("none", "null", ""):
            return None
        return parse(text, next(arg for arg in args if arg is not type(None)))
    if origin is tuple:
        return _parse_tuple(text, args)
    if hint is Duration:
        return Duration.parse(text)
    if hint is bool:
        if text.lower() in ("true", "yes", "on", "1"):
            return True
        if text.lower() in ("false", "no", "off", "0"):
            return False
        raise ValueError(f"expected true or false, not '{text}'")
    if hint is str:
        return text
    try:
        number = hint(text) if hint is float else int(text.replace("_", ""))
    except ValueError:
        raise ValueError(
            f"expected {'a number' if hint is float else 'a whole number'}, not '{text}'"
        ) from None
    # A comparison with nan is false, so that no later check would notice it.
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, not '{text}'")
    return number


def _parse_tuple(text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Read "0.25,1" as a flat tuple; "0:0,0.3:0.2" as pairs, "0.3" as one without spread."""
    parts = [part.strip() for part in text.strip("()[] ").split(",") if part.strip()]
    if get_origin(args[0]) is tuple:
        width = len(get_args(args[0]))
        rows = [(part.split(":") + ["0"] * width)[:width] for part in parts]
        return tuple(_parse_tuple(",".join(row), get_args(args[0])) for row in rows)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(parse(part, args[0]) for part in parts)
    # One number for a square.
    if len(parts) == 1 and len(args) == 2 and args[0] is int:
        parts = parts * 2
    if len(parts) != len(args):
        raise ValueError(f"expected {len(args)} values separated by commas, got {len(parts)}")
    return tuple(parse(part, arg) for part, arg in zip(parts, args, strict=True))


def to_plain(config: Any) -> Any:
    """Dataclasses, tuples and durations as what JSON holds."""
    if isinstance(config, Duration):
        return show(config)
    if is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in fields(config)}
    if isinstance(config, tuple):
        return [to_plain(value) for value in config]
    return config


def from_plain(plain: dict[str, Any], origin: str = "a saved configuration") -> Config:
    """Read what `to_plain` wrote; keys that are absent keep their defaults.

    Raises ConfigError for a key that no configuration has and for a value of the wrong type.
    """
    config = Config(recipe=plain.get("recipe", ""))
    for section, values in plain.items():
        if section == "recipe":
            continue
        if not isinstance(values, dict):
            raise ConfigError(f"'{section}' in {origin} is no section", why=f"it holds {values!r}")
        for key, value in values.items():
            key, value = _present_name(f"{section}.{key}", value)
            section, name, hint = _find(config, key, origin)
            try:
                typed = _from_json(value, hint)
            except ValueError as error:
                raise ConfigError(
                    f"{section}.{name} in {origin} has the wrong type", why=str(error)
                ) from None
            config = replace(
                config, **{section: replace(getattr(config, section), **{name: typed})}
            )
    return config


def from_run(plain: dict[str, Any]) -> Config:
    """Settings of a run from its config.json; runs from before `data.pixels` had exact pixels.

    Raises ConfigError as `from_plain`.
    """
    if not isinstance(plain, dict):
        raise ConfigError("config.json holds no settings", why=f"it is a {type(plain).__name__}")
    settings = {section: values for section, values in plain.items() if section != "command"}
    if isinstance(data := settings.get("data"), dict):
        settings["data"] = {"pixels": "exact", **data}
    return from_plain(settings, "config.json")


def _from_json(value: Any, hint: Any) -> Any:
    """The inverse of `to_plain` for one setting. Raises ValueError."""
    optional = get_origin(hint) in (Union, types.UnionType)
    plain_type = {bool: bool, int: int, float: (int, float)}.get(hint, str)
    if optional and value is None:
        return None
    if get_origin(hint) is tuple or optional:
        if not isinstance(value, list):
            raise ValueError(f"expected a list, not {value!r}")
        if get_args(hint) == (str, ...):  # whose values may hold commas and brackets
            return tuple(_from_json(one, str) for one in value)
        return parse(show(_as_tuple(value)), hint)
    if not isinstance(value, plain_type) or (isinstance(value, bool) and hint is not bool):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}.get(hint, "text")
        raise ValueError(f"expected {wanted}, not {value!r}")
    return parse(show(value), hint)


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list) else value


def diff(a: Config, b: Config) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ, with both values."""
    left, right = dict(items(a)), dict(items(b))
    return [(key, left[key], right[key]) for key in left if left[key] != right[key]]


def later_at_default(config: Config) -> list[tuple[str, str]]:
    """Section and name of unset settings that came after folders had been named."""
    sections = [
        (section.name, getattr(config, section.name))
        for section in fields(config)
        if section.name != "recipe"
    ]
    return [
        (section, f.name)
        for section, part in sections
        for f in fields(part)
        if not f.repr and getattr(part, f.name) == f.default
    ]


def items(config: Config) -> Iterator[tuple[str, Any]]:
    """All (section.key, value) pairs."""
    for section in fields(config):
        if section.name != "recipe":
            part = getattr(config, section.name)
            for f in fields(part):
                yield f"{section.name}.{f.name}", getattr(part, f.name)


def show(value: Any) -> str:
    """A value as it is given on the command line; reading it back gives the same."""
    if isinstance(value, Duration):
        return f"{show(value.value)} {value.unit}"
    if isinstance(value, tuple):
        if value and isinstance(value[0], tuple):
            return ",".join(":".join(show(v) for v in row) for row in value)
        return ",".join(show(v) for v in value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return "none" if value is None else str(value)


def _find(config: Config, key: str, origin: str) -> tuple[str, str, Any]:
    section, _, name = key.partition(".")
    known = section != "recipe" and hasattr(config, section)
    hints = _hints(type(getattr(config, section))) if known else {}
    if name in hints:
        return section, name, hints[name]
    raise ConfigError(
        f"unknown setting '{key}' (from {origin})",
        why="no recipe has such a key",
        fix=_advice(config, key),
    )


def _advice(config: Config, key: str) -> str:
    known = [name for name, _ in items(config)]
    last = key.rpartition(".")[2]
    same_name = [name for name in known if name.rpartition(".")[2] == last]
    nearest = (
        same_name
        or difflib.get_close_matches(key, known, 2, 0.6)
        or [
            name
            for name in known
            if difflib.SequenceMatcher(None, last, name.rpartition(".")[2]).ratio() > 0.75
        ][:2]
    )
    named = config.recipe if config.recipe not in ("", "auto") else "vit_s16"
    listing = f"list all: ibot recipes show {named}"
    return f"did you mean {' or '.join(nearest)}?   {listing}" if nearest else listing


@cache
def _hints(section: type) -> dict[str, Any]:
    return typing.get_type_hints(section)


def _example(hint: Any, current: Any) -> str:
    if hint is Duration:
        return '"10 epochs"'
    return show(current)
