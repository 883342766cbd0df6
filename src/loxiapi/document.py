# SPDX-License-Identifier: Apache-2.0
"""Reading a JSON document, with the error texts of the contract.

The clients of the contract see texts of Go's ``encoding/json``: the standard library does the parsing here,
and a failure is put into those words. As there, the first value counts and what follows it is ignored.
"""

from json import JSONDecodeError, JSONDecoder
from typing import NoReturn

from loxiapi.refusal import quoted, unparsable

_BLANKS = " \t\r\n"
_LITERALS = {"t": "true", "f": "false", "n": "null"}
_HEX = frozenset("0123456789abcdefABCDEF")


class Number(str):
    """A number as written; what it may hold depends on the member it is for."""

    __slots__ = ()


class Members(list[tuple[str, "Value"]]):
    """The members of an object in document order, doubles included."""

    __slots__ = ()


Value = None | bool | str | Number | list["Value"] | Members


class _SyntaxMismatchError(Exception):
    """A syntax error in the words of the contract."""


def _refuse_constant(name: str) -> NoReturn:
    first = name[0]
    if first == "-":
        raise _SyntaxMismatchError(f"invalid character {_character(name[1])} in numeric literal")
    raise _SyntaxMismatchError(f"invalid character {_character(first)} looking for beginning of value")


_decoder = JSONDecoder(object_pairs_hook=Members, parse_int=Number, parse_float=Number, parse_constant=_refuse_constant)


def parse(content: bytes) -> Value:
    """Return the first value in ``content``; raises RefusedError, and EOFError when there is none.

    Bytes that are no UTF-8 and halves of surrogate pairs become U+FFFD.
    """
    text = content.decode("utf-8", "replace")
    start = next((i for i, c in enumerate(text) if c not in _BLANKS), None)
    if start is None:
        raise EOFError
    try:
        value: Value = _decoder.raw_decode(text, start)[0]
    except JSONDecodeError as error:
        raise unparsable(_go_text(text, error)) from None
    except _SyntaxMismatchError as error:
        raise unparsable(str(error)) from None
    except RecursionError:
        raise unparsable("exceeded max depth") from None
    return value


def clean_text(text: str) -> str:
    """Replace halves of surrogate pairs, which no UTF-8 encoder takes."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(character: str) -> str:
    first_byte = chr(character.encode("utf-8", "surrogatepass")[0])
    if first_byte == "'":
        return "'\\''"
    return "'" + ('"' if first_byte == '"' else quoted(first_byte)[1:-1]) + "'"


def _go_text(text: str, error: JSONDecodeError) -> str:
    where, place = _locate(text, error)
    if where >= len(text):
        return "unexpected EOF"
    return f"invalid character {_character(text[where])} {place}"


def _locate(text: str, error: JSONDecodeError) -> tuple[int, str]:
    """Return the index of the offending character and what the reader was at."""
    kind, at = error.msg, error.pos
    if kind.startswith("Expecting value"):
        return _in_value(text, at)
    if kind.startswith("Expecting property name"):
        return at, "looking for beginning of object key string"
    if kind.startswith("Expecting ':'"):
        return at, "after object key"
    if kind.startswith("Expecting ','"):
        return _after_value(text, at)
    if kind.startswith("Invalid control character"):
        return at, "in string literal"
    if kind.startswith("Invalid \\uXXXX"):
        return _first_not_hex(text, at), "in \\u hexadecimal character escape"
    if kind.startswith("Invalid \\escape"):
        return at + 1, "in string escape code"
    return len(text), ""  # an unterminated string


def _in_value(text: str, at: int) -> tuple[int, str]:
    """Tell a half-written literal or number from a character that starts no value."""
    if at >= len(text):
        return at, ""
    if text[at] == "-":
        return at + 1, "in numeric literal"
    literal = _LITERALS.get(text[at])
    if literal is None:
        return at, "looking for beginning of value"
    step = next(i for i, c in enumerate(literal) if text[at + i : at + i + 1] != c)
    return at + step, f"in literal {literal} (expecting '{literal[step]}')"


def _after_value(text: str, at: int) -> tuple[int, str]:
    if at < len(text) and text[at] in ".eE" and text[at - 1].isdigit():
        return at + 1, "after decimal point in numeric literal" if text[at] == "." else "in exponent of numeric literal"
    return at, "after object key:value pair" if _inside_object(text[:at]) else "after array element"


def _inside_object(text: str) -> bool:
    """Tell whether the innermost open bracket of well-formed ``text`` is a brace."""
    open_brackets: list[str] = []
    characters = iter(text)
    in_string = False
    for character in characters:
        if character == "\\":
            next(characters, None)
        elif character == '"':
            in_string = not in_string
        elif not in_string and character in "{[":
            open_brackets.append(character)
        elif not in_string and character in "}]":
            open_brackets.pop()
    return bool(open_brackets) and open_brackets[-1] == "{"


def _first_not_hex(text: str, at: int) -> int:
    """Return the index of the first character after the ``u`` at ``at`` that is no hexadecimal digit."""
    return next((i for i in range(at + 1, min(at + 5, len(text))) if text[i] not in _HEX), len(text))
