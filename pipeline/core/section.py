"""One section of params.yaml as a frozen, typed object, and the error messages about its values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.core.errors import ParamsError
from pipeline.core.former import FORMER

NONE = "none"  # in params.yaml, the name of no backbone, layer, fusion or refiner
LINEAR = "linear"  # the decoder that is the read-out; warm starts and floors need it

Names = Annotated[tuple[str, ...], Field(strict=False)]  # YAML has lists, not tuples
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """Base of every section: exact types (no "3" for 3), no unknown keys, frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


S = TypeVar("S", bound=Section)


def parse_section(schema: type[S], values: Any, where: str = "") -> S:
    """Build `schema` from plain YAML values.

    Args:
        where: the section's dotted path in params.yaml, for the messages.

    Raises:
        ParamsError: one line for each problem: the key, its value, the rule, the fix.
    """
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        problems = [_sentence(schema, where, problem) for problem in error.errors()]
        raise ParamsError("\n".join(problems)) from None


def unknown_name(key: str, value: str, legal: Iterable[str]) -> str:
    """The error message for an unregistered name."""
    names = sorted(legal)
    return f"params.yaml: {key} = {value!r} is unknown{did_you_mean(value, names)}; choose one of: {', '.join(names)}"


def did_you_mean(value: str, names: Iterable[str]) -> str:
    """` (did you mean 'x'?)`, or "" when no name begins with `value` or is close to it.

    Names that begin with `value` come first, because users shorten names more often than they misspell them.
    """
    known = list(names)
    begun = [name for name in known if value and name.startswith(value)]
    close = difflib.get_close_matches(value, begun, n=1, cutoff=0) or difflib.get_close_matches(value, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def _sentence(schema: type[BaseModel], where: str, problem: Mapping[str, Any]) -> str:
    location = [str(part) for part in problem["loc"]]
    key = ".".join([where, *location] if where else location)
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "extra_forbidden":
        known = sorted(_fields_at(schema, location[:-1]))
        hint = did_you_mean(location[-1], known) or (f"; its section knows: {', '.join(known)}" if known else "")
        return f"params.yaml: unknown key '{key}'{hint}"
    if kind == "missing":
        section = key.rpartition(".")[0]
        former = FORMER.get(section) or FORMER.get(section.partition(".")[0], {})
        line = f"{location[-1]}: {json.dumps(former[location[-1]])}" if location[-1] in former else "it"
        return f"params.yaml: '{key}' is missing; add {line} (see the params.yaml of a fresh clone)"
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ")
        return f"params.yaml: {key} = {value!r} is unknown; choose one of: {choices}"
    return f"params.yaml: {key} = {value!r}: {_rule(problem)}"


def _rule(problem: Mapping[str, Any]) -> str:
    context = problem.get("ctx", {})
    bounds = {"ge": "must be at least", "gt": "must be above", "le": "must be at most", "lt": "must be below"}
    for name, words in bounds.items():
        if name in context:
            return f"{words} {context[name]}"
    if problem["type"] in ("tuple_type", "list_type") and isinstance(problem["input"], str | int | float):
        return f"must be a list (write [{problem['input']}])"
    if problem["type"] in ("too_short", "string_too_short"):
        return (
            "must not be empty" if context["min_length"] == 1 else f"must have at least {context['min_length']} parts"
        )
    types = {
        "int_type": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_type": "must be a number (write 1e-4 or 0.0001 without quotes)",
        "string_type": "must be a text (write it in quotes when YAML takes it for something else)",
        "bool_type": "must be true or false",
        "tuple_type": "must be a list",
        "dict_type": "must be a section of keys",
        "model_type": "must be a section of keys",
        "finite_number": "must be finite",
    }
    return types.get(problem["type"], str(problem["msg"]).removeprefix("Value error, "))


def _fields_at(schema: Any, location: Iterable[str]) -> Iterable[str]:
    """The keys of the section at `location` below `schema`."""
    for part in location:
        if _is_section(schema) and part in schema.model_fields:
            schema = schema.model_fields[part].annotation
        else:  # a dict of sections, keyed by name
            schema = (*get_args(schema), None, None)[1]
    return schema.model_fields if _is_section(schema) else ()


def _is_section(schema: Any) -> bool:
    return isinstance(schema, type) and issubclass(schema, BaseModel)
