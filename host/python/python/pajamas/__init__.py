"""Make a Hugging Face model small, prove that it is still good, and run it on the best hardware present.

    import pajamas

    made = pajamas.quantize("Qwen/Qwen2.5-0.5B-Instruct", method="Q4_K_M")
    with pajamas.load(made.path) as model:
        for piece in model.stream([{"role": "user", "content": "What is the capital of France?"}]):
            print(piece, end="", flush=True)

Functions of this module use the installation that the program ``pajamas`` uses (``~/.pajamas``); :class:`Installation` is for
another one. Long calls release the interpreter's lock, and Ctrl-C stops them. Each has an ``async`` twin in
:mod:`pajamas.aio`.
"""

import atexit
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from ._errors import (
    BackendError,
    ContextOverflowError,
    InvalidModelError,
    ModelNotFoundError,
    OutOfMemoryError,
    PajamasError,
    QualityTooLowError,
    StorageError,
    UnsupportedError,
    UsageError,
    WorkerError,
)
from ._installation import (
    Installation,
    ModelReference,
    backends,
    benchmark,
    forecast,
    hardware,
    load,
    models,
    path_of,
    pull,
    quantize,
    sweep,
    validate,
)
from ._model import Conversation, GenerateOptions, Message, Model, Stream
from ._native import __version__
from ._native import end as _end
from ._progress import Progress
from ._results import Answer, Backend, MemoryUsage, ModelRecord, Notice, Quantized, Report

if TYPE_CHECKING:
    from . import aio

__all__ = [
    "Answer",
    "Backend",
    "BackendError",
    "ContextOverflowError",
    "Conversation",
    "GenerateOptions",
    "Installation",
    "InvalidModelError",
    "MemoryUsage",
    "Message",
    "Model",
    "ModelNotFoundError",
    "ModelRecord",
    "ModelReference",
    "Notice",
    "OutOfMemoryError",
    "PajamasError",
    "Progress",
    "QualityTooLowError",
    "Quantized",
    "Report",
    "StorageError",
    "Stream",
    "UnsupportedError",
    "UsageError",
    "WorkerError",
    "__version__",
    "aio",
    "backends",
    "benchmark",
    "forecast",
    "hardware",
    "load",
    "models",
    "path_of",
    "pull",
    "quantize",
    "sweep",
    "validate",
]

# Work that a daemon thread leaves behind must not outlive what it computes with.
atexit.register(_end)


def __getattr__(name: str) -> ModuleType:
    # Only for those who use it: asyncio takes a while to import.
    if name == "aio":
        return import_module(".aio", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
