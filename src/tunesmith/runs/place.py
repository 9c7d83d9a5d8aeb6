"""A run's folder: where its files are."""

from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RunError


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

    def create(self) -> None:
        """Make the folder.

        Raises:
            RunError: If it holds something already, or cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            found = sorted(path.name for path in self.folder.iterdir())
        except OSError as error:
            raise RunError(f"The run folder {self.folder} cannot be made: {error.strerror}. Choose another --out.") from None
        if "run.json" in found:
            raise RunError(
                f"{self.folder} holds a run already. Choose another --out, or go on with it: tunesmith resume {self.folder}"
            )
        if found:
            raise RunError(f"{self.folder} is not empty ({', '.join(found[:5])}). Choose a new folder with --out.")
