"""The exceptions, each with what happened and what to do about it."""

from __future__ import annotations

import errno
import re
from typing import TYPE_CHECKING, Any, Dict, Optional, Tuple, Type

if TYPE_CHECKING:
    from ._results import Quantized


class PajamasError(Exception):
    """Something failed. ``kind`` is a word to tell failures apart by, ``hint`` what to do, if there is something to do.

    Hints say what to do in Python where there is a way; commands that begin ``pajamas`` are for a shell.
    """

    def __init__(self, message: str, *, kind: str = "other", hint: Optional[str] = None) -> None:
        super().__init__(message)
        self.message = message
        self.kind = kind
        self.hint = hint
        #: The model that was made before measuring it failed.
        self.made: Optional[Quantized] = None
        self._made: Optional[str] = None

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> Tuple[Any, ...]:
        return (_rebuilt, (type(self), self.message, self.kind, self.hint, self.made))


class ModelNotFoundError(PajamasError, FileNotFoundError):
    """There is no such model, here or on the hub."""

    def __init__(self, message: str, *, kind: str = "model_not_found", hint: Optional[str] = None) -> None:
        super().__init__(message, kind=kind, hint=hint)
        self.errno = errno.ENOENT


class InvalidModelError(PajamasError, ValueError):
    """A file is not what it should be."""


class UsageError(PajamasError, ValueError):
    """What was asked for does not exist or does not fit: a method, an option, a value."""


class BackendError(PajamasError):
    """No backend can do it, or the one that was named cannot."""


class StorageError(PajamasError, OSError):
    """A file or folder could not be read or written."""


class UnsupportedError(BackendError):
    """The backend cannot do this."""


class OutOfMemoryError(PajamasError, MemoryError):
    """The model does not fit."""


class ContextOverflowError(PajamasError, ValueError):
    """The prompt does not fit into the model's context."""


class WorkerError(PajamasError):
    """The process that the model ran in crashed or hung. This process goes on; the model is lost."""


class QualityTooLowError(PajamasError):
    """Nothing that can be made is good enough, or small enough."""


# Flags of the command line, as its texts name them.
_FLAG = re.compile(r"(?<![\w-])--([a-z]+(?:-[a-z]+)*)(?: ([A-Za-z_]+)=([\w.]+)| ([A-Z]+|[0-9]+)\b)?")
_SHORT_FLAG = re.compile(r"^-([a-z])(?: ([\w.]+))?$")
_SHORT = {"m": "method", "o": "output_dir", "n": "name", "b": "backend", "p": "prompt_tokens"}
# What quantizers call an option.
_OPTIONS = {
    "calibration": "calibration",
    "imatrix": "imatrix",
    "leave-output-tensor": "leave_output_tensor",
    "output-tensor-type": "output_tensor_type",
    "pre-tokenizer": "pre_tokenizer",
    "pure": "pure",
    "requantize": "requantize",
    "tensor-type": "tensor_types",
    "token-embedding-type": "token_embedding_type",
}
_WORDS = {
    "dry-run": "forecast",
    "force": "force=True",
    "isolate": "isolated=True",
    "output": "output_dir",
    "reference-backend": "backend",
    "strict": "strict=True",
}


# Those that Python has by the same name.
_SAME = (
    "backend", "context-length", "fit", "format", "generate-tokens", "keep", "max-degradation", "max-kld", "method", "name",
    "parallel", "prompt-tokens", "reference", "repetitions", "text", "threads", "tokens", "window",
)  # fmt: skip


def in_python(text: str, everywhere: bool = False) -> str:
    """A text for the command line as one for Python. Commands stay what they are, and so do names and paths: a flag is what
    stands alone in backticks, or ``everywhere``, which hints have."""
    text = text.replace("run again with `-v`", "run again with RUST_LOG=debug in the environment")
    text = text.replace("leave only one of `-p 0` and `-n 0`", "leave only one of `prompt_tokens=0` and `generate_tokens=0`")
    parts = text.split("`")
    for index, part in enumerate(parts):
        if part.startswith("-") if index % 2 == 1 else everywhere:
            parts[index] = _FLAG.sub(_keyword, _SHORT_FLAG.sub(_short, part))
    return "`".join(parts)


def _keyword(flag: re.Match[str]) -> str:
    name, option, value, argument = flag.groups()
    if name == "set":
        # What is in capitals stands for a value.
        shown = value if value and (value.isdigit() or value.isupper()) else repr(value)
        return f"options={{{option!r}: {shown}}}" if option else "options"
    if name in _OPTIONS:
        return f"options={{{_OPTIONS[name]!r}: …}}"
    if name in _WORDS:
        return _WORDS[name]
    if name not in _SAME:
        return flag[0]
    name = name.replace("-", "_")
    return f"{name}={argument}" if argument and argument.isdigit() else name


def _short(flag: re.Match[str]) -> str:
    name, argument = flag.groups()
    if name not in _SHORT:
        return flag[0]
    return f"{_SHORT[name]}={argument}" if argument and argument.isdigit() else _SHORT[name]


_BY_KIND: Dict[str, Type[PajamasError]] = {
    "model_not_found": ModelNotFoundError,
    "io": StorageError,
    "invalid": InvalidModelError,
    "invalid_model": InvalidModelError,
    "usage": UsageError,
    "unknown_method": UsageError,
    "unknown_backend": UsageError,
    "no_backend": BackendError,
    "device_lost": BackendError,
    "panic": BackendError,
    "unsupported": UnsupportedError,
    "out_of_memory": OutOfMemoryError,
    "context_overflow": ContextOverflowError,
    "worker": WorkerError,
    "quality_too_low": QualityTooLowError,
}


def of(kind: str, message: str, hint: Optional[str]) -> PajamasError:
    """The exception for a failure; the extension module calls it."""
    return _BY_KIND.get(kind, PajamasError)(in_python(message), kind=kind, hint=hint and in_python(hint, everywhere=True))


def _rebuilt(
    cls: Type[PajamasError], message: str, kind: str, hint: Optional[str], made: Optional[Quantized]
) -> PajamasError:
    error = cls(message, kind=kind, hint=hint)
    error.made = made
    return error
