"""Chat templates: a model's own, rendered in a process that can do nothing else, or a plain one for models without."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tunesmith.data.examples import Message
from tunesmith.errors import ModelError

MAX_SOURCE_CHARACTERS = 64 * 1024
WAIT_SECONDS = 30.0
"""Wall time after which a batch is given up, whatever the worker does; its processor time is limited to 2 s."""
ROWS_AT_ONCE = 64
CHARACTERS_AT_ONCE = 400_000

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
    "{% elif message['role'] == 'assistant' %}{{ '### Assistant:\\n' + message['content'] + eos_token + '\\n\\n' }}"
    "{% else %}{{ '### ' + message['role'].capitalize() + ':\\n' + message['content'] + '\\n\\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '### Assistant:\\n' }}{% endif %}"
)
"""For models that were never told how a conversation is written: headings in plain text, each answer ended by EOS."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A conversation that the template cannot render."""

    reason: str


class ChatTemplate:
    """Renders conversations to text. Use as a context manager: a worker process is alive until `close`."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Compile the template.

        Args:
            source: Jinja source, as in a tokenizer's `chat_template`.
            special_tokens: What the template's variables `bos_token`, `eos_token`, ... stand for.

        Raises:
            ModelError: If the source is too long or not valid.
        """
        if len(source) > MAX_SOURCE_CHARACTERS:
            raise ModelError(
                f"The chat template is {len(source):,} characters long; {MAX_SOURCE_CHARACTERS:,} is the most that is rendered."
            )
        self.source = source
        self._process: subprocess.Popen[bytes] | None = None
        self._setup = {"template": source, "variables": dict(special_tokens)}

    def render(self, conversations: Sequence[Sequence[Message]], *, add_generation_prompt: bool = False) -> list[str | Refusal]:
        """The text of each conversation, or why the template refuses it.

        Raises:
            ModelError: If the template takes more time or memory than any honest one.
        """
        rendered: list[str | Refusal] = []
        for batch in _batches(conversations):
            plain = [[{"role": message.role, "content": message.content} for message in item] for item in batch]
            for answer in self._ask({"conversations": plain, "generation": add_generation_prompt}):
                if isinstance(answer, dict) and "fatal" in answer:
                    self.close()
                    raise ModelError(
                        f"The model's chat template was stopped: {answer['error']}. Give the model another template."
                    )
                rendered.append(answer if isinstance(answer, str) else Refusal(str(answer["error"])))
        return rendered

    def close(self) -> None:
        """End the worker process."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    continue

    def __enter__(self) -> ChatTemplate:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, request: Mapping[str, object]) -> list[str | dict[str, str]]:
        if self._process is None:
            self._start()
        answer = self._exchange(request)
        assert isinstance(answer, list)
        return answer

    def _start(self) -> None:
        worker = Path(__file__).with_name("template_worker.py")
        environment = {key: os.environ[key] for key in ("LD_LIBRARY_PATH", "SYSTEMROOT") if key in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", str(worker)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
        )
        answer = self._exchange(self._setup)
        if not isinstance(answer, dict) or answer["error"] is not None:
            self.close()
            raise ModelError(
                f"The model's chat template is not valid: {answer['error'] if isinstance(answer, dict) else answer}."
            )

    def _exchange(self, request: Mapping[str, object]) -> object:
        """Send one request and wait for its answer."""
        assert self._process is not None and self._process.stdin is not None and self._process.stdout is not None
        data = json.dumps(request).encode("ascii")
        deadline = time.monotonic() + WAIT_SECONDS
        try:
            _write(self._process.stdin.fileno(), len(data).to_bytes(4, "big") + data, deadline)
            size = int.from_bytes(_read(self._process.stdout.fileno(), 4, deadline), "big")
            return json.loads(_read(self._process.stdout.fileno(), size, deadline))
        except (EOFError, TimeoutError, BrokenPipeError) as error:
            raise self._stopped(error) from None

    def _stopped(self, error: Exception) -> ModelError:
        """What to say when the worker does not answer."""
        assert self._process is not None
        if isinstance(error, TimeoutError):
            reason = f"it gave no answer for {WAIT_SECONDS:g} s"
        else:
            code = self._process.wait()
            reason = (
                "it took more than 2 s of processor time" if code == -signal.SIGPROF else f"its process ended with code {code}"
            )
        self.close()
        return ModelError(f"The model's chat template was stopped: {reason}. Give the model another template.")


def _batches(conversations: Sequence[Sequence[Message]]) -> Iterator[list[Sequence[Message]]]:
    """Conversations in batches limited by number and by characters."""
    batch: list[Sequence[Message]] = []
    size = 0
    for conversation in conversations:
        length = sum(len(message.content) for message in conversation)
        if batch and (len(batch) >= ROWS_AT_ONCE or size + length > CHARACTERS_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(conversation)
        size += length
    if batch:
        yield batch


def _write(pipe: int, data: bytes, deadline: float) -> None:
    view = memoryview(data)
    os.set_blocking(pipe, False)
    while view:
        if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
            raise TimeoutError
        view = view[os.write(pipe, view) :]


def _read(pipe: int, count: int, deadline: float) -> bytes:
    parts, missing = [], count
    while missing:
        if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        part = os.read(pipe, min(missing, 2**20))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
