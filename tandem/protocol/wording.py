"""What is wrong with a message, field by field, in the words of all other errors: what was expected and what came."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from tandem.protocol.ids import ARTIFACT_PATTERN, NAME_PATTERN

_SHOWN = 60
_BITS = 128
_MAX_PROBLEMS = 5

Context = Mapping[str, Any]

_PATTERNS = {
    ARTIFACT_PATTERN: "an artifact's id, `sha256:` and 64 hexadecimal digits",
    NAME_PATTERN: "at most 64 letters, digits, dots, underscores and hyphens, a letter or digit first",
}
_KINDS = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing", "decimal_type", "decimal_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("tuple_type", "list_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("model_type", "dict_type", "model_attributes_type", "dataclass_type"), "an object"),
    "string_type": "a string",
    "finite_number": "a finite number",
}
_BOUNDS: Mapping[str, Callable[[Context], str]] = {
    "greater_than": lambda told: f"more than {told['gt']}",
    "greater_than_equal": lambda told: f"{told['ge']} or more",
    "less_than": lambda told: f"less than {told['lt']}",
    "less_than_equal": lambda told: f"at most {told['le']}",
    "enum": lambda told: str(told["expected"]),
    "literal_error": lambda told: str(told["expected"]),
    "string_pattern_mismatch": lambda told: _PATTERNS.get(told["pattern"], f"text that {told['pattern']} matches"),
}
_WHOLE: Mapping[str, Callable[[Context], str]] = {
    "too_short": lambda told: f"at least {told['min_length']} of them, got {told['actual_length']}",
    "too_long": lambda told: f"at most {told['max_length']} of them, got {told['actual_length']}",
    "string_too_short": lambda told: f"at least {told['min_length']} characters, got fewer",
    "string_too_long": lambda told: f"at most {told['max_length']} characters, got more",
    "missing": lambda _: "a value, got none",
    "extra_forbidden": lambda _: "no field of this name, got one",
    "union_tag_not_found": lambda told: f"an object that says its {told['discriminator']}, got none",
    "union_tag_invalid": lambda told: (
        f"{told['discriminator']} out of {told['expected_tags']}, got {shown(told['tag'])}"
    ),
    "json_invalid": lambda told: f"JSON: {told['error']}",
}


def wording(error: ValidationError, *, left_out: Iterable[str] = (), whole: str = "body") -> str:
    """All that is wrong, or the first of it; `whole` is where it is no one field.

    `left_out` are parts of a field's place that no user has written, such as the kinds of a union.
    """
    found = error.errors(include_url=False)
    hidden = frozenset(left_out)
    told = []
    for problem in found:
        if not _follows(problem, found):
            place = ".".join(str(part) for part in problem["loc"] if part not in hidden)
            told.append(f"{place[:200] or whole}: {_said(problem)[:500]}")
    more = f"; and {len(told) - _MAX_PROBLEMS} more" if len(told) > _MAX_PROBLEMS else ""
    return "; ".join(told[:_MAX_PROBLEMS]) + more


def _said(problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in _WHOLE:
        return f"expected {_WHOLE[kind](context)}"
    if kind in _BOUNDS:
        return f"expected {_BOUNDS[kind](context)}, got {shown(problem['input'])}"
    if kind in _KINDS:
        return f"expected {_KINDS[kind]}, got {shown(problem['input'])}"
    return problem["msg"].removeprefix("Value error, ")


def shown(value: object) -> str:
    """Enough to find it by; never all of what is long, which might be a signed URL, nor what is nested too deep."""
    match value:
        case None | bool():
            return "null" if value is None else str(value).lower()
        case str():
            return repr(value) if len(value) <= _SHOWN else f"{value[:_SHOWN]!r}…"
        case int() if value.bit_length() > _BITS:
            return "a number of many digits"
        case int() | float():
            return repr(value)
        case Mapping():
            return "an object"
        case _:
            return "a list"


def _follows(problem: ErrorDetails, found: list[ErrorDetails]) -> bool:
    """Whether a list counts as too short only since its elements are wrong, which is said of them already."""
    at = problem["loc"]
    inside = (each for each in found if each["loc"][: len(at)] == at)
    return problem["type"] == "too_short" and any(len(each["loc"]) > len(at) for each in inside)
