# SPDX-License-Identifier: Apache-2.0
"""The daemon's settings from a YAML file: the same names and values as its flags, checked line by line."""

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import click
import yaml

from loxilb.errors import LoxilbError

_NULL = "tag:yaml.org,2002:null"


class _Setting(NamedTuple):
    """A key with its value as written, and the line it stands in (from 1)."""

    key: str
    text: str
    line: int


def load(path: Path, context: click.Context, choices: Mapping[str, Collection[str]]) -> Mapping[str, str | list[str]]:
    """Return the settings of ``path`` by the name of their parameter, as written.

    Each is checked as the command line would, and against its ``choices`` where the command line takes any. Raises
    LoxilbError with line and field for the first that is wrong.
    """
    parameters = {name: one for one in context.command.params for name in _keys_of(one)}
    found: dict[str, str | list[str]] = {}
    for setting in _settings(path):
        place = f"{path} line {setting.line}: {setting.key}"
        parameter = parameters.get(setting.key)
        if parameter is None or parameter.name is None:
            raise LoxilbError(f"{place}: no such setting", remedy=_suggestion(setting.key, parameters))
        if parameter.name in found:
            raise LoxilbError(f"{place}: it is there twice", remedy="keep one")
        value = _value_of(parameter, setting.text)
        _check(place, parameter, value, context)
        if setting.text not in choices.get(parameter.name, (setting.text,)):
            raise LoxilbError(f"{place}: {setting.text!r} is not one of {', '.join(choices[parameter.name])}")
        found[parameter.name] = value
    return found


def _keys_of(parameter: click.Parameter) -> list[str]:
    """Return how a parameter is called in a file; one that is read before all others cannot be in it."""
    if parameter.is_eager or parameter.name is None:
        return []
    return [parameter.name.replace("_", "-")]


def _value_of(parameter: click.Parameter, text: str) -> str | list[str]:
    """Return a value as written; that of a flag that may be repeated is several words."""
    return text.split() if isinstance(parameter, click.Option) and parameter.multiple else text


def _settings(path: Path) -> list[_Setting]:
    try:
        root = yaml.compose(path.read_text(), yaml.SafeLoader)
    except OSError as error:
        raise LoxilbError(f"cannot read {path}: {error.strerror}", remedy="name another file with --config") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LoxilbError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if root is None or root.tag == _NULL:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise LoxilbError(f"{path} line 1: settings are needed, each on a line: port: 11111")
    return [_setting(path, key, value) for key, value in root.value]


def _setting(path: Path, key: yaml.Node, value: yaml.Node) -> _Setting:
    line = key.start_mark.line + 1
    if not isinstance(key, yaml.ScalarNode):
        raise LoxilbError(f"{path} line {line}: a name is needed before the colon")
    if not isinstance(value, yaml.ScalarNode) or value.tag == _NULL:
        raise LoxilbError(f"{path} line {line}: {key.value}: one value is needed")
    return _Setting(key.value, value.value, line)


def _check(place: str, parameter: click.Parameter, value: str | list[str], context: click.Context) -> None:
    try:
        parameter.process_value(context, value)
    except click.BadParameter as error:
        raise LoxilbError(f"{place}: {error.message}") from error
    except LoxilbError as error:
        raise LoxilbError(f"{place}: {str(error).removeprefix(f'{parameter.name}: ')}") from error


def _suggestion(key: str, known: Mapping[str, object]) -> str:
    near = difflib.get_close_matches(key.lower().replace("_", "-"), known, n=1)
    return f"did you mean {near[0]}?" if near else "loxilb --help names them"
