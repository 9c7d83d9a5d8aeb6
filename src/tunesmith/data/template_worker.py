"""The process in which chat templates run: nothing but Jinja's sandbox, with limits on time, memory, output and files.

Started by path, it imports nothing of tunesmith. It reads requests and writes answers as JSON, each after its length in
four bytes. A request is `{"template", "variables"}` once, then `{"conversations", "generation"}`; an answer is a list with
a text, or `{"error": ...}`, for each conversation.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from datetime import datetime

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CPU_SECONDS = 2.0
MEMORY_BYTES = 256 * 2**20
OUTPUT_CHARACTERS = 2**20


class _Refused(TemplateError):
    """The template itself says that it cannot render the conversation, or it breaks a limit."""


class _GenerationTag(Extension):
    """Lets `{% generation %}` mark an answer, as some templates do; the marked text is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 -- Jinja's interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise_exception(message: str) -> None:
    raise _Refused(str(message))


def _to_json(
    value: object, ensure_ascii: bool = False, indent: int | None = None, separators: object = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, sort_keys=sort_keys)


def _environment(source: str) -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
    for name in ("attr", "format", "xmlattr", "pprint"):
        del environment.filters[name]
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    if "strftime_now is defined" not in source:
        # A date of today would make the same data other tokens tomorrow; templates that ask first have a date of their own.
        environment.globals["strftime_now"] = datetime(2024, 7, 26).strftime
    return environment


def _limit_process() -> None:
    """Memory, files and processes; the time limit is set for each request."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 -- pathlib is one more import to pay for
            in_use = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY_BYTES, in_use + MEMORY_BYTES))
    except OSError:
        resource.setrlimit(resource.RLIMIT_DATA, (2 * MEMORY_BYTES, 2 * MEMORY_BYTES))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NPROC):
        resource.setrlimit(limit, (0, 0))


def _render(template, conversation: list[dict[str, str]], generation: bool, variables: dict[str, str]) -> str | dict[str, str]:  # type: ignore[no-untyped-def]
    most = OUTPUT_CHARACTERS + 4 * sum(len(message["content"]) for message in conversation)
    pieces, size = [], 0
    try:
        context = {"tools": None, "documents": None, **variables, "add_generation_prompt": generation}
        for piece in template.generate(messages=conversation, **context):
            size += len(piece)
            if size > most:
                raise _Refused(f"it writes more than {most:,} characters for one conversation")
            pieces.append(piece)
    except MemoryError:
        return {"error": f"it needs more than {MEMORY_BYTES // 2**20} MB", "fatal": "yes"}
    except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return {"error": f"{error}"[:300] or type(error).__name__}
    return "".join(pieces)


def _read_exactly(count: int) -> bytes:
    data = sys.stdin.buffer.read(count)
    if len(data) < count:
        sys.exit(0)
    return data


def _receive() -> dict[str, object]:
    return json.loads(_read_exactly(int.from_bytes(_read_exactly(4), "big")))


def _send(answer: object) -> None:
    data = json.dumps(answer).encode("ascii")
    sys.stdout.buffer.write(len(data).to_bytes(4, "big") + data)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve requests until the pipe is closed."""
    _limit_process()
    setup = _receive()
    source, variables = str(setup["template"]), dict(setup["variables"])  # type: ignore[call-overload]
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    try:
        template = _environment(source).from_string(source)
    except (TemplateError, RecursionError, MemoryError, ValueError) as error:
        return _send({"error": f"{error}"[:300]})
    _send({"error": None})
    while True:
        signal.setitimer(signal.ITIMER_PROF, 0)
        request = _receive()
        # The default action of the timer's signal ends the process, even in the middle of a C function.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        _send([_render(template, item, bool(request["generation"]), variables) for item in request["conversations"]])  # type: ignore[attr-defined]


if __name__ == "__main__":
    main()
