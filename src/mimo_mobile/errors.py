"""Every error that MiMo Mobile raises on purpose.

    MimoMobileError
    ├── CheckpointError              a checkpoint cannot be used
    │   ├── UnknownTensorError       a tensor that no table names
    │   ├── MissingTensorError       a tensor or a shard that config.json promises
    │   └── ShapeMismatchError       a tensor of another shape than config.json says
    ├── QuantizationError            a recipe or a block format cannot be applied
    │   └── QualityGateError         a quantized file lost more than it may
    ├── OutputExistsError            an output is there already and --force was not given
    ├── DiskFullError                an output would not fit on the disk
    ├── SessionError                 a model cannot be run
    │   ├── ModelLoadError           a file is no model, damaged, or too large
    │   │   └── MemoryFullError      a model would not fit in the available memory
    │   ├── ContextFullError         prompt and answer do not fit the context
    │   ├── ConversationError        a saved conversation is damaged, or another model's
    │   ├── NumericsError            a model computed NaN, infinity or wrong numbers
    │   ├── EndpointError            a server that was asked does not answer, refuses, or answers nonsense
    │   ├── Cancelled                a computation was cut off by cancel() or close()
    │   └── BackendUnavailableError  a backend or an execution provider is not here
    ├── MissingDependencyError       an extra was not installed
    └── BadArgumentError             an argument is out of range or comes to nothing; a ``ValueError``, too

A message says what was found, what was expected and what to do, in one line.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType


class MimoMobileError(Exception):
    """Any error that MiMo Mobile raises on purpose."""


class CheckpointError(MimoMobileError):
    """A checkpoint cannot be used.

    Attributes:
        problems: All that was found, each as the error that it would be alone; itself when it is the only one.
    """

    def __init__(self, message: str, problems: Sequence[CheckpointError] = ()) -> None:
        """Say what was found, or list several ``problems``."""
        super().__init__(message)
        self.problems: tuple[CheckpointError, ...] = tuple(problems) or (self,)


class UnknownTensorError(CheckpointError):
    """The checkpoint holds a tensor that no table names."""


class MissingTensorError(CheckpointError):
    """A tensor or shard that config.json or the index promises is not there."""


class ShapeMismatchError(CheckpointError):
    """A tensor has another shape than config.json says."""


class QuantizationError(MimoMobileError):
    """A recipe or a block format cannot be applied."""


class QualityGateError(QuantizationError):
    """A quantized file lost more than the recipe allows.

    Attributes:
        rejected: The recipes whose files were set aside.
    """

    def __init__(self, message: str, rejected: Sequence[str] = ()) -> None:
        """Say what was lost, and by which recipes."""
        super().__init__(message)
        self.rejected = tuple(rejected)


class OutputExistsError(MimoMobileError):
    """An output is there already and overwriting was not asked for."""


class DiskFullError(MimoMobileError):
    """An output would not fit on the disk; nothing was written."""


class SessionError(MimoMobileError):
    """A model cannot be run."""


class ModelLoadError(SessionError):
    """A file is no model, is damaged, or cannot fit in memory."""


class MemoryFullError(ModelLoadError):
    """A model would not fit in the available memory; nothing was loaded."""


class ContextFullError(SessionError):
    """Prompt and answer do not fit the context."""


class ConversationError(SessionError):
    """A saved conversation is damaged, or belongs to another model or KV cache."""


class NumericsError(SessionError):
    """A model computed NaN or infinity, or other numbers than it should on this machine."""


class EndpointError(SessionError):
    """A server that was asked does not answer, refuses, or answers nonsense.

    Attributes:
        status: The HTTP status with which it refused; None when it came to none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        """Say what was asked and found."""
        super().__init__(message)
        self.status = status


class Cancelled(SessionError):
    """A computation was cut off by ``cancel`` or ``close``; a generation ends with a record that says so instead.

    Attributes:
        computed: So many of the tokens that a backend was given were computed before that, and are in its KV cache.
    """

    def __init__(
        self, message: str = "the computation was cancelled, or the model closed meanwhile", *, computed: int = 0
    ) -> None:
        """Say what happened, which callers know best who called ``cancel``."""
        super().__init__(message)
        self.computed = computed


class BackendUnavailableError(SessionError):
    """A backend or an execution provider is not available on this machine."""


class BadArgumentError(MimoMobileError, ValueError):
    """An argument is out of its range, or comes to nothing beside another."""


class MissingDependencyError(MimoMobileError):
    """A package that an extra installs is missing; the message says what to type."""

    def __init__(self, package: str, extra: str) -> None:
        """Name the missing package and the extra that brings it."""
        super().__init__(f"{package} is not installed; type: pip install 'mimo-mobile[{extra}]'")
        self.package = package
        self.extra = extra


def require(module: str, extra: str) -> ModuleType:
    """The imported module, or an error that names the extra to install.

    Raises:
        MissingDependencyError: The module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingDependencyError(module.split(".")[0], extra) from error
