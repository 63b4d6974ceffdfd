"""docs/cli.md from the commands themselves: their signatures say what each option is called, takes and means."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from typer.models import ArgumentInfo, OptionInfo

from serve_lite_cli.program import COMMANDS, build_program
from tests.docs.markdown import anchor, code, table

_HEAD = """\
<!-- Made by `make docs` from cli/serve_lite_cli; change it there. -->

# Command line

`serve` and `serve-lite` are the same program. `serve COMMAND --help` shows what is here, too. It ends with 0 if the
command is done, with 1 if it failed, and with 2 if it was used wrongly.
"""


#: A default that only the help tells, because it is found out when the command runs.
_TOLD_DEFAULT = re.compile(r"(.*?)(?:\s*\[default: (.*)\])?", re.DOTALL)


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """One argument or option of a command."""

    is_option: bool
    names: tuple[str, ...]  #: of an option, what it is written as; the others stand for its opposite
    opposites: tuple[str, ...] = ()
    takes: str = ""  #: what its value is; empty for a flag
    default: str = ""
    help: str = ""
    is_required: bool = False
    is_many: bool = False

    @property
    def shown(self) -> str:
        """The names as the tables have them."""
        if not self.is_option:
            return code(self.names[0])
        return ", ".join(map(code, self.names)) + "".join(f" / {code(name)}" for name in self.opposites)


def page() -> str:
    """Return the whole page."""
    commands = dict(commands_there())
    contents = " · ".join(f"[{name}](#{anchor(f'serve {name}')})" for name in commands)
    return "\n".join(
        [_HEAD, contents + "\n", *(_section(name, command) for name, command in commands.items())]
    )


def commands_there() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Return the commands that the program has, by name."""
    for command in build_program(COMMANDS).registered_commands:
        if command.callback is not None and not command.hidden:
            yield command.name or command.callback.__name__, command.callback


def words_of(command: Callable[..., Any]) -> list[Word]:
    """Return the arguments and options of a command, arguments first."""
    hints = typing.get_type_hints(command, include_extras=True)
    words = [
        word
        for parameter in inspect.signature(command).parameters.values()
        if (word := _word(parameter, hints[parameter.name])) is not None
    ]
    return sorted(words, key=lambda word: word.is_option)


def _word(parameter: inspect.Parameter, hint: Any) -> Word | None:
    if typing.get_origin(hint) is not typing.Annotated:
        return None
    kind, *extras = typing.get_args(hint)
    info = next((extra for extra in extras if isinstance(extra, OptionInfo | ArgumentInfo)), None)
    if info is None or info.hidden:
        return None
    is_option = isinstance(info, OptionInfo)
    kind, is_many = _single(kind)
    default = parameter.default
    is_flag = is_option and kind is bool
    names, opposites = _names(info, parameter.name) if is_option else ((_metavar(info, parameter),), ())
    help, told = _TOLD_DEFAULT.fullmatch((info.help or "").strip()).groups()  # type: ignore[union-attr]  # fits all
    return Word(
        is_option=is_option,
        names=names,
        opposites=opposites,
        takes="" if is_flag else _takes(kind, info),
        default=told or _default(default, opposites),
        help=help,
        is_required=default is inspect.Parameter.empty,
        is_many=is_many,
    )


def _single(kind: Any) -> tuple[Any, bool]:
    """Return the type of one value, and whether there may be several."""
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = [one for one in typing.get_args(kind) if one is not type(None)]
    if typing.get_origin(kind) in (list, tuple):
        return typing.get_args(kind)[0], True
    return kind, False


def _names(info: OptionInfo | ArgumentInfo, parameter: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    # Typer takes the first name for a default until it looks at the annotation as a whole.
    declared = (info.default, *(info.param_decls or ()))
    given = [name for name in declared if isinstance(name, str) and name.startswith("-")]
    given = given or [f"--{parameter.replace('_', '-')}"]
    sides = [name.partition("/") for name in given]
    return tuple(s[0].strip() for s in sides), tuple(s[2].strip() for s in sides if s[2])


def _metavar(info: OptionInfo | ArgumentInfo, parameter: inspect.Parameter) -> str:
    return str(info.metavar or parameter.name.upper())


def _takes(kind: Any, info: OptionInfo | ArgumentInfo) -> str:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return ", ".join(code(str(member.value)) for member in kind)
    name = {int: "whole number", float: "number"}.get(kind, "")
    bounds = [
        f"{text} {bound:g}"
        for text, bound in (("from", info.min), ("to", info.max))
        if bound is not None and name
    ]
    return " ".join([name or "text", *bounds])


def _default(default: Any, opposites: tuple[str, ...]) -> str:
    if isinstance(default, bool):
        return code("on") if default and opposites else ""
    if default in (inspect.Parameter.empty, None, "", (), []):
        return ""
    return code(str(default.value if isinstance(default, enum.Enum) else default))


def _section(name: str, command: Callable[..., Any]) -> str:
    words = words_of(command)
    usage = " ".join(["serve", name, *(["[OPTIONS]"] if any(w.is_option for w in words) else [])])
    for word in words:
        if not word.is_option:
            shown = word.names[0] + ("..." if word.is_many else "")
            usage += f" {shown}" if word.is_required else f" [{shown}]"
    parts = [f"## serve {name}", f"```\n{usage}\n```", inspect.getdoc(command) or ""]
    for title, is_option in (("argument", False), ("option", True)):
        if chosen := [word for word in words if word.is_option is is_option]:
            parts.append(table([title, "takes", "default", "what it is"], map(_row, chosen)))
    return "\n\n".join(part for part in parts if part) + "\n"


def _row(word: Word) -> tuple[str, str, str, str]:
    takes = f"{word.takes}, repeatable" if word.is_option and word.is_many else word.takes
    return word.shown, takes, word.default, word.help
