"""One setting: what is known of it, and how a value of it is read and checked."""

from __future__ import annotations

import re
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from .errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = int | float | bool | str

KIB, MIB, GIB = 2**10, 2**20, 2**30
SECOND_MS, MINUTE_MS, HOUR_MS, DAY_MS = 1000, 60_000, 3_600_000, 86_400_000
INT32_MAX, INT64_MAX = 2**31 - 1, 2**63 - 1

BYTES, MILLISECONDS, BYTES_PER_SECOND = "bytes", "ms", "bytes/s"
_SIZES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": KIB, "MiB": MIB, "GiB": GIB, "TiB": 2**40}
_TIMES = {"ms": 1, "s": SECOND_MS, "m": MINUTE_MS, "min": MINUTE_MS, "h": HOUR_MS, "d": DAY_MS, "w": 7 * DAY_MS}
_UNITS: dict[str, dict[str, int]] = {"": {}, BYTES: _SIZES, MILLISECONDS: _TIMES, BYTES_PER_SECOND: _SIZES}
_NUMBER = re.compile(r"([+-]?[0-9]+(?:_[0-9]+)*)(\.[0-9]+)? ?([A-Za-z/]*)")
_ADDRESS = re.compile(r"(?:tcp://(?:\[[0-9A-Fa-f:.%a-z]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5}))")
_PORT_MAX = 65535
NO_ADDRESS = "none"
"""Where an address may be left out: nothing is listened on."""


class Setting(NamedTuple):
    """What is known of one setting."""

    attribute: str
    name: str
    default: Value
    doc: str
    unit: str = ""
    at_least: int | None = None
    at_most: int | None = None
    also: tuple[int, ...] = ()
    """Numbers that are allowed though they lie outside of the bounds."""
    choices: tuple[str, ...] = ()
    is_address: bool = False
    may_be_none: bool = False
    """Whether an address may be `none`: not listened on."""
    aliases: tuple[str, ...] = ()
    broker_name: str = ""
    """For a topic's setting: the broker-wide default of it."""

    @property
    def allowed(self) -> str:
        """What values there are, for people."""
        if self.choices:
            return ", ".join(f"`{choice}`" for choice in self.choices)
        if isinstance(self.default, bool):
            return "`true`, `false`"
        if isinstance(self.default, float):
            return "0 to 1"
        if isinstance(self.default, str):
            if not self.is_address:
                return "text"
            return "`tcp://HOST:PORT`, `none`" if self.may_be_none else "`tcp://HOST:PORT`"
        low = "" if self.at_least is None else f"{self.at_least} or more"
        high = "" if self.at_most in (None, INT32_MAX, INT64_MAX) else f"up to {self.at_most}"
        return ", ".join(part for part in (*map(str, self.also), low, high) if part)


_T = TypeVar("_T", int, float, bool, str)


def setting_row(default: _T, doc: str, unit: str = "", **known: Any) -> _T:
    """Declare one row of a table, as a dataclass's field; ``known`` are the other fields of Setting."""
    return field(default=default, metadata={"doc": doc, "unit": unit, **known})


def settings_table(config_class: Any) -> tuple[Setting, ...]:
    """The rows that a dataclass declares."""
    rows = []
    for declared in fields(config_class):
        if declared.metadata:
            known = {"name": dotted(declared.name), **declared.metadata}
            rows.append(Setting(attribute=declared.name, default=cast("Value", declared.default), **known))
    return tuple(rows)


def unknown_setting(name: str, known: Iterable[str], *, kind: str) -> ConfigError:
    """The error for a name that is no setting; it names the nearest one."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed once something is wrong; start-up does without

    near = get_close_matches(dotted(name).lower(), list(known), n=1, cutoff=0.0)
    return ConfigError(f"there is no {kind} setting {name!r}; the nearest known one is {near[0]}")


def dotted(name: str) -> str:
    """Spell a setting's name as Kafka does: ``log_segment_bytes`` becomes ``log.segment.bytes``."""
    return name.strip().replace("_", ".")


_NUMBER_LENGTH_MAX = 100
"""Far more than any limit has; Python itself refuses to read some thousands of digits."""


def value_text(value: Value) -> str:
    """Write a value as Kafka does: numbers without unit, booleans in lower case."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def parse(setting: Setting, name: str, value: object) -> Value:
    """Read a value into the setting's own type and unit, and check it; name is how the caller spelled it."""
    name = name.strip()
    if isinstance(value, str):
        text = value.strip()
        if isinstance(setting.default, bool):
            value = {"true": True, "false": False}.get(text.lower(), text)
        elif isinstance(setting.default, float):
            value = _parse_share(name, text)
        elif isinstance(setting.default, int):
            value = _parse_number(setting, name, text)
        elif setting.choices:
            value = _parse_choice(setting, text)
        else:
            value = text
    elif isinstance(value, list) and setting.choices:
        value = _parse_choice(setting, ",".join(map(str, value)))
    return check(setting, name, value)


def _parse_choice(setting: Setting, text: str) -> str:
    """Find the choice that is meant, whatever its case, and in whatever order the parts of a list stand."""

    def parts(choice: str) -> list[str]:
        return sorted(part.strip().lower() for part in choice.split(","))

    return next((choice for choice in setting.choices if parts(choice) == parts(text)), text)


def _parse_share(name: str, text: str) -> float:
    found = _NUMBER.fullmatch(text)
    if found is None or found[3] or len(text) > _NUMBER_LENGTH_MAX:
        message = f"{name} is {text[:_NUMBER_LENGTH_MAX]!r}, which is no number like 0.5"
        raise ConfigError(message)
    return float(text)


def _parse_number(setting: Setting, name: str, text: str) -> int:
    found = _NUMBER.fullmatch(text)
    if found is None:
        message = f"{name} is {text!r}, which is no number{' with a unit' if setting.unit else ''}"
        raise ConfigError(message)
    if len(text) > _NUMBER_LENGTH_MAX:
        message = f"{name} is a number of {len(text)} characters, and at most {_NUMBER_LENGTH_MAX} are read"
        raise ConfigError(message)
    whole, fraction, unit = found.groups()
    factor = 1
    if unit:
        known = _UNITS[setting.unit]
        # m means minutes; everything else is known by its letters in any case, since nobody means a millibyte.
        by_case = {known_unit.lower(): known_factor for known_unit, known_factor in known.items()}
        bare = unit.lower().removesuffix("/s") if setting.unit == BYTES_PER_SECOND else unit.lower()
        if bare not in by_case:
            units = f"its units are {', '.join(known)}" if known else "it takes a plain number"
            message = f"{name} is {text!r}, and {unit!r} is none of its units; {units}"
            raise ConfigError(message)
        factor = by_case[bare]
    if not fraction:
        return int(whole) * factor
    # In whole numbers, because a float would round large sizes.
    scale: int = 10 ** (len(fraction) - 1)
    scaled = int(whole + fraction[1:]) * factor
    if scaled % scale:
        message = f"{name} is {text!r}, which is not a whole number of {setting.unit or 'units'}"
        raise ConfigError(message)
    return scaled // scale


def check(setting: Setting, name: str, value: object) -> Value:
    """Return the value itself if it has the setting's type and is allowed. Raises ConfigError."""
    if isinstance(setting.default, bool):
        if isinstance(value, bool):
            return value
        message = f"{name} is {value!r}; it must be true or false"
    elif isinstance(setting.default, float):
        if isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value <= 1.0:
            return float(value)
        message = f"{name} is {value!r}; it must be a number from 0 to 1"
    elif isinstance(setting.default, int):
        if isinstance(value, int) and not isinstance(value, bool):
            return _check_bounds(setting, name, value)
        message = f"{name} is {value!r}; it must be a whole number{f' of {setting.unit}' if setting.unit else ''}"
    elif not isinstance(value, str) or "\0" in value:
        message = f"{name} is {value!r}; it must be text"
    elif setting.choices and value not in setting.choices:
        message = f"{name} is {value!r}; it must be one of {', '.join(setting.choices)}"
    elif setting.is_address and value != setting.default and not _is_address(value, setting):
        none = ", or none" if setting.may_be_none else ""
        message = f"{name} is {value!r}; it must be tcp://HOST:PORT with a port up to {_PORT_MAX}{none}"
    else:
        return value
    raise ConfigError(message)


def _check_bounds(setting: Setting, name: str, value: int) -> int:
    unit = f" {setting.unit}" if setting.unit else ""
    if value in setting.also:
        return value
    if setting.at_least is not None and value < setting.at_least:
        message = f"{name} is {value}{unit}, less than the least allowed, {setting.at_least}{unit}"
        raise ConfigError(message)
    if setting.at_most is not None and value > setting.at_most:
        message = f"{name} is {value}{unit}, more than the most allowed, {setting.at_most}{unit}"
        raise ConfigError(message)
    return value


def _is_address(text: str, setting: Setting) -> bool:
    if setting.may_be_none and text == NO_ADDRESS:
        return True
    found = _ADDRESS.fullmatch(text)
    return found is not None and int(found["port"] or 0) <= _PORT_MAX
