"""The package for ``asyncio``: the same functions, to be awaited. They run in threads, so the loop goes on; cancelling a task
stops its work.

    import pajamas

    async with pajamas.aio.load("qwen2.5-0.5b-instruct-q4_k_m", parallel=4) as model:
        async for piece in model.stream("Once upon a time"):
            print(piece, end="", flush=True)
"""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    AsyncIterator,
    Callable,
    Coroutine,
    Dict,
    Generator,
    List,
    Optional,
    Sequence,
    TypeVar,
    Union,
)

from . import _installation, _model
from ._installation import Installation, ModelReference
from ._model import Conversation, Message
from ._progress import Shown
from ._results import Answer, Backend, MemoryUsage, Quantized, Report

if TYPE_CHECKING:
    import numpy

T = TypeVar("T")


class _Cancelled(Exception):
    """Nobody waits for the work any more."""


class _Stoppable(Shown):
    """Raises in the work once ``stopped`` is set."""

    stopped: threading.Event

    def _notice(self, kind: str, text: str, stage: str, fraction: float) -> None:
        if self.stopped.is_set():
            raise _Cancelled
        super()._notice(kind, text, stage, fraction)


async def _long(function: Callable[..., T], *arguments: Any, progress: Any = False, **keywords: Any) -> T:
    """Does ``function`` in a thread; it ends soon after the task was cancelled."""
    shown = _Stoppable(progress)
    shown.stopped = threading.Event()
    try:
        return await asyncio.to_thread(function, *arguments, progress=shown, **keywords)
    except asyncio.CancelledError:
        shown.stopped.set()
        raise


async def quantize(
    model: ModelReference, method: Optional[str] = None, *, on: Optional[Installation] = None, **options: Any
) -> Quantized:
    """As :func:`pajamas.quantize`; ``on`` is another installation than the usual one."""
    return await _long((on or _installation.default()).quantize, model, method, **options)


async def validate(
    model: ModelReference,
    reference: Optional[ModelReference] = None,
    *,
    on: Optional[Installation] = None,
    **options: Any,
) -> Report:
    """As :func:`pajamas.validate`."""
    return await _long((on or _installation.default()).validate, model, reference, **options)


async def benchmark(
    models: Union[ModelReference, Sequence[ModelReference]], *, on: Optional[Installation] = None, **options: Any
) -> Report:
    """As :func:`pajamas.benchmark`."""
    return await _long((on or _installation.default()).benchmark, models, **options)


async def sweep(
    model: ModelReference,
    methods: Union[None, str, Sequence[str]] = None,
    *,
    on: Optional[Installation] = None,
    **options: Any,
) -> Report:
    """As :func:`pajamas.sweep`."""
    return await _long((on or _installation.default()).sweep, model, methods, **options)


async def pull(model: str, *, on: Optional[Installation] = None, **options: Any) -> Path:
    """As :func:`pajamas.pull`."""
    return await _long((on or _installation.default()).pull, model, **options)


async def backends(*, rescan: bool = False, on: Optional[Installation] = None) -> List[Backend]:
    """As :func:`pajamas.backends`."""
    return await asyncio.to_thread((on or _installation.default()).backends, rescan=rescan)


async def forecast(
    model: ModelReference, method: Optional[str] = None, *, on: Optional[Installation] = None, **options: Any
) -> Quantized:
    """As :func:`pajamas.forecast`."""
    return await asyncio.to_thread((on or _installation.default()).forecast, model, method, **options)


def load(
    model: ModelReference, backend: Optional[str] = None, *, on: Optional[Installation] = None, **options: Any
) -> Loading:
    """As :func:`pajamas.load`: to be awaited for a :class:`Model` of this module, or for ``async with``."""
    return Loading(lambda: _long((on or _installation.default()).load, model, backend, **options))


class Loading:
    """A model that is about to be loaded."""

    def __init__(self, begin: Callable[[], Coroutine[Any, Any, _model.Model]]) -> None:
        self._begin = begin
        self._model: Optional[Model] = None

    async def _load(self) -> Model:
        self._model = Model(await self._begin())
        return self._model

    def __await__(self) -> Generator[Any, None, Model]:
        return self._load().__await__()

    async def __aenter__(self) -> Model:
        return await self._load()

    async def __aexit__(self, *exception: object) -> None:
        if self._model is not None:
            await self._model.close()


class Stream:
    """As :class:`pajamas.Stream`, for ``async for``."""

    def __init__(self, stream: _model.Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await asyncio.to_thread(next, self._stream, None)
        except asyncio.CancelledError:
            self._stream.stop()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    def stop(self) -> None:
        """Ends it soon."""
        self._stream.stop()

    @property
    def answer(self) -> Optional[Answer]:
        """The whole answer, once the iteration has ended."""
        return self._stream.answer

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *exception: object) -> None:
        self.stop()
        async for _ in self:
            pass


class Model:
    """As :class:`pajamas.Model`, to be awaited. Several tasks may use it at once; ``parallel`` of :func:`load` says how many
    of them generate at the same time."""

    def __init__(self, model: _model.Model) -> None:
        #: The model itself.
        self.model = model

    async def generate(self, prompt: Union[str, Sequence[int], Sequence[Message]], **options: Any) -> Answer:
        """As :meth:`pajamas.Model.generate`."""
        return await _whole(self.model.stream(prompt, **options))

    async def chat(self, messages: Conversation, **options: Any) -> Answer:
        """As :meth:`pajamas.Model.chat`."""
        messages = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return await _whole(self.model.stream(messages, **options))

    def stream(self, prompt: Union[str, Sequence[int], Sequence[Message]], **options: Any) -> Stream:
        """As :meth:`pajamas.Model.stream`."""
        return Stream(self.model.stream(prompt, **options))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> List[int]:
        """As :meth:`pajamas.Model.tokenize`."""
        return await asyncio.to_thread(
            self.model.tokenize, text, add_special=add_special, parse_special=parse_special
        )

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """As :meth:`pajamas.Model.detokenize`."""
        return await asyncio.to_thread(self.model.detokenize, tokens)

    async def logits(self, tokens: Sequence[int]) -> numpy.ndarray:
        """As :meth:`pajamas.Model.logits`."""
        return await asyncio.to_thread(self.model.logits, tokens)

    async def memory_usage(self) -> MemoryUsage:
        """As :meth:`pajamas.Model.memory_usage`."""
        return await asyncio.to_thread(self.model.memory_usage)

    @property
    def info(self) -> Dict[str, Any]:
        """What it is."""
        return self.model.info

    @property
    def backend(self) -> str:
        """The backend that it runs on."""
        return self.model.backend

    async def close(self) -> None:
        """Unloads it."""
        await asyncio.to_thread(self.model.close)

    async def __aenter__(self) -> Model:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()


async def _whole(stream: _model.Stream) -> Answer:
    """Waits, in one thread, for all of it."""

    def wait() -> Answer:
        for _ in stream:
            pass
        answer = stream.answer
        assert answer is not None, "a stream that ended without an exception has an answer"
        return answer

    try:
        return await asyncio.to_thread(wait)
    except asyncio.CancelledError:
        stream.stop()
        raise
