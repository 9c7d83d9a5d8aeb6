"""`tunesmith chat`: talk to a tuned model, or ask it one thing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from tunesmith import collector
from tunesmith.command import Command
from tunesmith.commands import _folder, _output
from tunesmith.commands._conversation import Conversation
from tunesmith.commands._flags import OptionalText
from tunesmith.commands._view import View
from tunesmith.errors import InputError
from tunesmith.reports.result import RunResult

if TYPE_CHECKING:
    from tunesmith.evaluation.generate import Generation

_LEAVE = ("/exit", "/quit")
_FORGET = "/new"


@dataclass(kw_only=True)
class Chat(Command):
    """Talk to the model of a run, or ask it one thing with --prompt.

    While you talk, /new starts a new conversation, /exit or Ctrl-D leaves, Ctrl-C stops an answer.
    A classifier answers with the label.
    """

    name = "chat"
    example = 'tunesmith chat runs/instructions-smollm2-lora-1 --prompt "Name three colours."'

    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run folder, or its name in ./runs."""
    prompt: Annotated[OptionalText, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """Answer this and leave."""
    system: Annotated[OptionalText, tyro.conf.arg(metavar="TEXT", help_behavior_hint="")] = None
    """What the model is told before the conversation."""
    max_new_tokens: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="Default: 256.")] = 256
    """Longest answer in tokens."""
    temperature: Annotated[float, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="Default: 0.")] = 0.0
    """How freely words are drawn: 0 takes the most probable one, 1 draws by the model's own probabilities."""
    top_p: Annotated[float, tyro.conf.arg(metavar="NUMBER", help_behavior_hint="Default: 1.")] = 1.0
    """Draw only among the most probable words that together have this probability."""
    seed: Annotated[int, tyro.conf.arg(metavar="N", help_behavior_hint="Default: 0.")] = 0
    """The same seed draws the same answers."""
    json: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Print prompt and answer as one JSON object on stdout; needs --prompt."""
    quiet: Annotated[bool, tyro.conf.arg(help_behavior_hint="")] = False
    """Show nothing but the answers."""

    def run(self) -> int:
        if self.json and self.prompt is None:
            raise InputError("--json needs --prompt: a conversation is not one JSON object.")
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens must be at least 1, found {self.max_new_tokens}.")
        folder = _folder.find_run(self.folder)
        conversation = self._conversation(folder, self._generation())
        if self.prompt is not None:
            answer = conversation.answer(self.prompt, shown=not self.json)
            self._say_if_cut(conversation)
            if self.json:
                facts = {"run": str(folder), "prompt": self.prompt, "answer": answer, "cut_off": conversation.was_cut}
                _output.emit_json(facts)
            return 0
        return self._talk(conversation)

    def _generation(self) -> Generation:
        from tunesmith.evaluation.generate import Generation
        from tunesmith.evaluation.sampling import Sampling

        sampling = Sampling(temperature=self.temperature, top_p=self.top_p, seed=self.seed)
        return Generation(max_new_tokens=self.max_new_tokens, sampling=sampling)

    def _conversation(self, folder: Path, settings: Generation) -> Conversation:
        """A fresh conversation with the model of the run.

        Raises:
            InputError: If the run or a setting has no meaning in a conversation.
        """
        result = RunResult.load(folder)
        self._require_sense(folder, result)
        with collector.paused():
            from tunesmith.runs import predict

        with View(quiet=self.quiet) as view:
            view.say(f"loading {folder}")
            return Conversation(predict.load(folder, view), result.task, self.system, settings)

    def _require_sense(self, folder: Path, result: RunResult) -> None:
        """Refuse what could have no effect.

        Raises:
            InputError: If the run judges pairs of texts, or a setting has no meaning for it.
        """
        if result.data.has_pairs:
            code = f"tunesmith.load({str(folder)!r}).predict([(first, second)])"
            raise InputError(f"{folder} judges pairs of texts, which a line cannot hold. From Python: {code}")
        if result.task == "classification" and self.temperature:
            raise InputError(f"{folder} answers with a label: there is nothing to draw. Leave out --temperature.")
        if result.task != "chat" and self.system:
            raise InputError(f"{folder} was tuned for {result.task}, which knows no instructions. Leave out --system.")
        if not self.temperature and (self.top_p != 1 or self.seed):
            given = "--top-p" if self.top_p != 1 else "--seed"
            raise InputError(
                f"{given} says how words are drawn, and none are without --temperature. Add it, e.g. --temperature 0.7."
            )

    def _talk(self, conversation: Conversation) -> int:
        """Read lines until the user leaves."""
        asked = "> " if sys.stdin.isatty() else ""
        while True:
            try:
                line = input(asked).strip()
            except EOFError:
                return 0
            if line in _LEAVE:
                return 0
            if line == _FORGET:
                conversation.start()
            elif line:
                self._answer(conversation, line)

    def _answer(self, conversation: Conversation, line: str) -> None:
        """Answer a line; whatever comes of it, the conversation goes on."""
        try:
            conversation.answer(line, shown=True)
        except KeyboardInterrupt:
            _output.say(" [stopped]")
        except InputError as error:
            View().warn(f"{error} Your message was taken back; {_FORGET} starts a new conversation.")
        else:
            self._say_if_cut(conversation)

    def _say_if_cut(self, conversation: Conversation) -> None:
        """Tell an answer that ran into the limit from one that ended, and how to raise the limit."""
        if conversation.was_cut:
            View(quiet=self.quiet).say(
                f"The answer was cut off: it reached --max-new-tokens {self.max_new_tokens}, or the most that the model takes. "
                f"--max-new-tokens {2 * self.max_new_tokens} leaves it more room."
            )
