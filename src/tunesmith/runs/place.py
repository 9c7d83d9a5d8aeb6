"""A run's folder: where its files are, how it comes to be, and how it goes if nothing came of it."""

from __future__ import annotations

import contextlib
import errno
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from tunesmith import durable
from tunesmith.checkpoint import lock
from tunesmith.errors import DiskFull, InputError, RunError
from tunesmith.reports import result
from tunesmith.training import log

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BEFORE_A_RUN = (lock.FILE_NAME, durable.temporary_name(result.FILE_NAME))
"""All that a process leaves which is killed before its first record."""


@dataclass(frozen=True)
class Place:
    """The paths of one run."""

    folder: Path

    @property
    def checkpoints(self) -> Path:
        """Resumable states of training."""
        return self.folder / "checkpoints"

    @property
    def adapter(self) -> Path:
        """What an added method learnt."""
        return self.folder / "adapter"

    @property
    def model(self) -> Path:
        """The whole tuned model, where the base weights themselves were trained."""
        return self.folder / "model"

    @property
    def base_record(self) -> Path:
        """What the retention gauge measured on the base model."""
        return self.folder / "base.safetensors"

    @property
    def base_answers(self) -> Path:
        """What the base model said to the held-out rows that are shown."""
        return self.folder / "base.json"

    @property
    def how_to_go_on(self) -> str:
        """What to do after an interruption, as the end of a sentence."""
        return f"everything is saved. Go on with: tunesmith resume {self.folder}"

    def require_new(self) -> None:
        """Check that the folder does not exist yet or is empty.

        Raises:
            RunError: If it holds something, or is no folder, or cannot be looked into.
        """
        try:
            found = sorted(path.name for path in self.folder.iterdir() if path.name not in _BEFORE_A_RUN)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unusable(error) from None
        if result.FILE_NAME in found:
            raise RunError(
                f"{self.folder} holds a run already. Choose another --out, or go on with it: tunesmith resume {self.folder}"
            )
        if found:
            raise RunError(f"{self.folder} is not empty ({', '.join(found[:5])}). Choose a new folder with --out.")

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Make the folder and hold its lock.

        It vanishes again if wrong input or a full disk ends the block before training, or anything at all before the first
        record.


        Raises:
            RunError: If it holds something already, is in use, or cannot be made or written to.
        """
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None
        with lock.RunLock(self.folder):
            self.require_new()
            try:
                yield
            except BaseException as error:
                is_useless = isinstance(error, (InputError, DiskFull)) or not (self.folder / result.FILE_NAME).exists()
                if is_useless and not self._was_trained():
                    self._empty(missing)
                raise

    def _was_trained(self) -> bool:
        """Whether training has begun."""
        return (self.folder / log.FILE_NAME).exists()

    def _empty(self, made: list[Path]) -> None:
        """Remove what the folder holds, and the folders that were made for it."""
        for path in self.folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in made:
            with contextlib.suppress(OSError):  # somebody else has put something there
                path.rmdir()

    def _unusable(self, error: OSError) -> RunError:
        return RunError(f"The run folder {self.folder} cannot be made: {error.strerror}. Choose another --out.")

    @contextlib.contextmanager
    def disk_errors_said(self) -> Iterator[None]:
        """Turn a write that failed for lack of room into an error that says what is safe and what to do.

        Raises:
            DiskFull: In place of the system's or safetensors' own error.
        """
        try:
            yield
        except (OSError, SafetensorError) as error:
            number = error.errno if isinstance(error, OSError) else _system_error(error)
            if number not in _NO_ROOM:
                raise
            go_on = f"Its last good checkpoint is untouched: make room, then go on with: tunesmith resume {self.folder}"
            advice = go_on if self._was_trained() else "Nothing was trained yet: make room and start again."
            raise DiskFull(f"No room to write to {self.folder}. {advice}") from error


def _system_error(error: SafetensorError) -> int | None:
    """The system's number of the error that safetensors reports as text."""
    found = re.search(r"os error (\d+)", str(error))
    return int(found[1]) if found else None


def located(name: str, directory: str) -> str:
    """A file or folder as a run named it, from wherever the user is: here, or else in the directory the run began in."""
    there = Path(directory) / name
    return str(there) if directory and not Path(name).exists() and there.exists() else name
