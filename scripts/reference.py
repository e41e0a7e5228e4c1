"""Writes the pages of docs/ that follow from the code: `make docs`."""

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic_core import to_jsonable_python
from pydantic_settings import BaseSettings

from node.settings import NodeSettings
from orchestrator.settings import OrchestratorSettings
from tandem.protocol import errors, jobs
from tandem.protocol.errors import ERRORS_BY_CODE, TandemError
from tandem.protocol.jobs import AttemptState, JobState, State, TaskState, is_final
from tandem.settings import REQUIRED, Setting, every_setting

DOCS = Path(__file__).parents[1] / "docs"

_STATES = """\
# States

Written by `make docs` from the tables in `tandem/protocol/jobs.py`; do not edit.

A job is what a customer asked for, a task one part of it that can be scheduled, an attempt one numbered execution of a
task on one node. A step that is not drawn raises `invalid_transition`.
"""

_ERRORS = """\
# Errors

Written by `make docs` from the tree in `tandem/protocol/errors.py`; do not edit.

Over HTTP an error is a problem of RFC 9457 (`application/problem+json`): `type` is `urn:tandem:error:` and the code,
and `code` is the code alone, on which a program may branch. `detail` says what was expected, what came, and what to do.
On the node session, `Failed`, `Verdict` and the other messages carry the same codes. "Again" says whether the same
thing may succeed later or on another node.

| code | type | HTTP | again | meaning |
|---|---|---|---|---|
"""

_SETTINGS = """\
# Settings

Written by `make docs` from `node/settings.py` and `orchestrator/settings.py`; do not edit.

Sources, strongest first: flags, environment variables, the TOML file of `--config`, defaults. A setting has one name:
`prices.inference_second` in the file is `--prices.inference-second` as a flag and
`TANDEM_NODE__PRICES__INFERENCE_SECOND` (or `TANDEM_ORCHESTRATOR__…`) as a variable. Tables are merged, all else is
replaced. An empty variable says nothing; `null` is no value; tables and lists are JSON in flags and variables.
"""


def states() -> str:
    diagrams = (
        _diagram("Job", jobs.JOB_TRANSITIONS, JobState.PREPARING, JobState.QUEUED),
        _diagram("Task", jobs.TASK_TRANSITIONS, TaskState.WAITING),
        _diagram("Attempt", jobs.ATTEMPT_TRANSITIONS, AttemptState.RUNNING),
    )
    return "\n".join((_STATES, *diagrams))


def _diagram(title: str, table: Mapping[State, frozenset[State]], *first: State) -> str:
    lines: list[str] = [f"## {title}", "", "```mermaid", "stateDiagram-v2"]
    lines.extend(f"    [*] --> {state}" for state in first)
    lines.extend(f"    {start} --> {end}" for start, ends in table.items() for end in sorted(ends))
    lines.extend(f"    {state} --> [*]" for state in table if is_final(table, state))
    return "\n".join([*lines, "```", ""])


def error_codes() -> str:
    """Meanings are those of the tree in the module's docstring."""
    meanings = dict(re.findall(r"── \w+ +(\w+)(?:: (.+))?\n", errors.__doc__ or ""))
    meanings["internal"] = "a fault of Tandem's own; its log says more"
    return _ERRORS + "".join(_error(code, kind, meanings[code]) for code, kind in ERRORS_BY_CODE.items())


def _error(code: str, kind: type[TandemError], meaning: str) -> str:
    again = "yes" if kind.retryable else "no"
    return f"| `{code}` | {kind.__name__} | {kind.status} | {again} | {meaning or code.replace('_', ' ')} |\n"


def settings() -> str:
    return "\n".join([_SETTINGS, _settings("Node", NodeSettings), _settings("Orchestrator", OrchestratorSettings)])


def _settings(title: str, cls: type[BaseSettings]) -> str:
    head = f"## {title}\n\n| setting | default | meaning |\n|---|---|---|\n"
    return head + "".join(_setting(setting) for setting in every_setting(cls))


def _setting(setting: Setting) -> str:
    default = "required" if setting.default is REQUIRED else f"`{json.dumps(to_jsonable_python(setting.default))}`"
    return f"| `{'.'.join(setting.path)}` | {default} | {' '.join(setting.description.split())} |\n"


PAGES: Mapping[str, Callable[[], str]] = {"states.md": states, "errors.md": error_codes, "settings.md": settings}


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
