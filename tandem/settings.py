"""Settings from four sources, strongest first: flags, environment, TOML file, defaults.

A setting has one name everywhere: `prices.inference_second` in the file is the flag `--prices.inference-second` and
the variable `TANDEM_NODE__PRICES__INFERENCE_SECOND`. What a source says wrongly is an error that names the setting,
where it was said, and what was expected. An empty variable says nothing; `null` stands for no value.
"""

import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsError,
)

from tandem.protocol.errors import ConfigurationError

S = TypeVar("S", bound=BaseSettings)

Route = tuple[str, ...]

Folder = Annotated[Path, AfterValidator(Path.absolute)]
"""A path that is the same from wherever a child process works."""

REQUIRED: Final = object()
_NOTHING = "null"
_SHOWN = 80


def load_settings(cls: type[S], config: Path | None, args: Sequence[str]) -> S:
    """The settings by the flags in `args`, the environment, the TOML file `config` and the defaults.

    Raises ConfigurationError.
    """
    sources = (_flags(cls, args), _environment(cls), _file(cls, config))
    defaults = InitSettingsSource(cls, _defaults(cls, sources))
    try:
        return cls(_build_sources=((*(source.source for source in sources), defaults), {}))
    except ValidationError as error:
        problems = "; ".join(_explain(problem, cls, sources) for problem in error.errors())
        raise ConfigurationError(problems) from error


@dataclass(frozen=True, slots=True)
class Setting:
    path: Route
    description: str
    default: Any
    """REQUIRED if there is none."""


def every_setting(cls: type[BaseModel]) -> Iterator[Setting]:
    """Every setting of every section, in the order of the class."""
    for name, field in cls.model_fields.items():
        yield from _settings((name,), field, _default(field))


def _settings(path: Route, field: FieldInfo, default: Any) -> Iterator[Setting]:
    kind = field.annotation
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        yield Setting(path, field.description or "", default)
        return
    for name, inner in kind.model_fields.items():
        yield from _settings((*path, name), inner, _default(inner) if default is REQUIRED else getattr(default, name))


def _default(field: FieldInfo) -> Any:
    return REQUIRED if field.is_required() else field.get_default(call_default_factory=True, validated_data={})


def flag(path: Route) -> str:
    return "--" + ".".join(path).replace("_", "-")


def variable(cls: type[BaseSettings], path: Route) -> str:
    return (_prefix(cls) + "__".join(path)).upper()


@dataclass(frozen=True, slots=True)
class _Source:
    source: PydanticBaseSettingsSource
    said: Mapping[str, Any]
    spell: Callable[[Route], str]
    """How an error names the setting that was given here."""

    def depth(self, path: Route) -> int:
        """How many parts of the path are said here."""
        found: Any = self.said
        for count, part in enumerate(path):
            if not isinstance(found, Mapping) or part not in found:
                return count
            found = found[part]
        return len(path)


def _flags(cls: type[BaseSettings], args: Sequence[str]) -> _Source:
    try:
        source = CliSettingsSource[Any](
            cls, cli_parse_args=list(args), cli_exit_on_error=False, cli_kebab_case=True, cli_parse_none_str=_NOTHING
        )
        return _Source(source, source(), lambda path: f"flag {flag(path)}")
    except SettingsError as error:
        raise ConfigurationError(f"flags: {error}; `--help` shows every setting") from error


def _environment(cls: type[BaseSettings]) -> _Source:
    source = EnvSettingsSource(cls, env_ignore_empty=True, env_parse_none_str=_NOTHING)
    try:
        read = _Source(source, source(), lambda path: f"environment variable {variable(cls, path)}")
    except SettingsError as error:
        raise ConfigurationError(f"environment variables {_prefix(cls)}…: expected JSON: {error}") from error
    for name, value in os.environ.items():
        _check_known(cls, name, value, read)
    return read


def _check_known(cls: type[BaseSettings], name: str, value: str, read: _Source) -> None:
    """pydantic-settings passes over variables that lead nowhere; here they are errors."""
    prefix = _prefix(cls)
    if not value or not name.upper().startswith(prefix.rstrip("_") + "_"):
        return
    path = tuple(name.lower().removeprefix(prefix.lower()).split("__"))
    if read.depth(path) < len(path):
        raise ConfigurationError(
            f"environment variable {name}: expected the name of a setting, such as "
            f"{variable(cls, next(every_setting(cls)).path)}, and there is none of this name; unset or correct it"
        )


def _file(cls: type[BaseSettings], config: Path | None) -> _Source:
    try:
        said = _without_empty(tomllib.loads(config.read_text("utf-8"))) if config else {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{config}: expected a TOML file with settings: {error}") from error
    return _Source(InitSettingsSource(cls, said), said, lambda path: f"{'.'.join(path)} in {config}")


def _without_empty(table: dict[str, Any]) -> dict[str, Any]:
    """A table whose every line is commented out says nothing."""
    kept = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in table.items()}
    return {key: value for key, value in kept.items() if value != {}}


def _defaults(cls: type[BaseSettings], sources: Sequence[_Source]) -> dict[str, Any]:
    """What no source says; a section's default may know more than the defaults of its fields."""
    defaults: dict[str, Any] = {}
    for setting in every_setting(cls):
        *above, name = setting.path
        if setting.default is REQUIRED or any(source.depth(setting.path) > len(above) for source in sources):
            continue
        table = defaults
        for part in above:
            table = table.setdefault(part, {})
        table[name] = setting.default
    return defaults


def _explain(problem: ErrorDetails, cls: type[BaseSettings], sources: Sequence[_Source]) -> str:
    path = tuple(str(part) for part in problem["loc"])
    if problem["type"] == "missing":
        return "; ".join(_missing(cls, path))
    message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
    if not path:  # a rule over several settings, which names them
        return message
    strongest = max(sources, key=lambda source: source.depth(path))
    place = strongest.spell(path[: strongest.depth(path)] or path)
    if problem["type"] == "extra_forbidden":
        return f"{place}: expected the name of a setting, and there is none of this name; remove or correct it"
    return f"{place}: {message}" + ("" if ", got " in message else f", got {_shown(problem['input'])}")


def _missing(cls: type[BaseSettings], path: Route) -> Iterator[str]:
    """What is missing, by setting: pydantic names a section if all of it is."""
    for setting in every_setting(cls):
        found = setting.path
        if found == path or (found[: len(path)] == path and setting.default is REQUIRED):
            yield f"{'.'.join(found)}: expected a value, got none; give it as {flag(found)} or {variable(cls, found)}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


def _prefix(cls: type[BaseSettings]) -> str:
    return cls.model_config.get("env_prefix", "")
