"""The package for ``asyncio``: the same functions, to be awaited. They run in threads of their own, so the loop goes on, and
callbacks are called on such a thread; cancelling a task stops its work.

    import pajamas

    async with pajamas.aio.load("qwen2.5-0.5b-instruct-q4_k_m", parallel=4) as model:
        async for piece in model.stream("Once upon a time"):
            print(piece, end="", flush=True)
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
from concurrent.futures import ThreadPoolExecutor
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
    Type,
    TypeVar,
    Union,
)

from . import _installation, _model
from ._installation import StrPath, of_default
from ._model import Conversation, GenerateOptions, Message
from ._progress import Shown
from ._results import Answer, MemoryUsage

if TYPE_CHECKING:
    import numpy
    from typing_extensions import Concatenate, ParamSpec, Unpack

    P = ParamSpec("P")
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


# As many may wait for a model as like: the loop's own few threads are for others.
_THREADS_MAX = 1024
_threads: Optional[ThreadPoolExecutor] = None
_threads_of = 0


def _pool() -> ThreadPoolExecutor:
    """The threads that wait. A process that was forked off has none of its parent's."""
    global _threads, _threads_of
    if _threads is None or _threads_of != os.getpid():
        _threads, _threads_of = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="pajamas"), os.getpid()
    return _threads


def _begin(function: Callable[..., T], *arguments: Any, **keywords: Any) -> asyncio.Future[T]:
    """Begins ``function`` in a thread of this package's."""
    context = contextvars.copy_context()
    call = functools.partial(context.run, function, *arguments, **keywords)
    return asyncio.get_running_loop().run_in_executor(_pool(), call)


async def _in_thread(function: Callable[..., T], *arguments: Any, **keywords: Any) -> T:
    """As ``asyncio.to_thread``."""
    return await _begin(function, *arguments, **keywords)


async def _stoppable(function: Callable[..., T], *arguments: Any, progress: Any = False, **keywords: Any) -> T:
    """Does ``function`` in a thread. When the task is cancelled, the work is stopped, and what it held is free afterwards."""
    shown = _Stoppable(progress)
    shown.stopped = threading.Event()
    # No task, which the loop's end would cancel while the thread goes on.
    work = _begin(function, *arguments, progress=shown, **keywords)
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError as cancelled:
        shown.stopped.set()
        await asyncio.wait([work])
        stopped = None if work.cancelled() else work.exception()
        # What was measured, or made, by then.
        for name in ("partial", "made"):
            if getattr(stopped, name, None) is not None:
                setattr(cancelled, name, getattr(stopped, name))
        raise


async def _threaded(function: Callable[..., T], stoppable: bool, *arguments: Any, **keywords: Any) -> T:
    return await (_stoppable if stoppable else _in_thread)(function, *arguments, **keywords)


def _native(installation: Installation) -> _installation.Installation:
    return installation._installation


def _awaitable(
    method: Callable[Concatenate[_installation.Installation, P], T],
) -> Callable[Concatenate[Installation, P], Coroutine[Any, Any, T]]:
    """``method`` of an installation, to be awaited."""
    stoppable = "progress" in inspect.signature(method).parameters

    @functools.wraps(method)
    async def function(self: Installation, /, *arguments: P.args, **keywords: P.kwargs) -> T:
        return await _threaded(method, stoppable, _native(self), *arguments, **keywords)

    return function


def _loading(
    method: Callable[Concatenate[_installation.Installation, P], _model.Model],
) -> Callable[Concatenate[Installation, P], Loading]:
    """``load`` of an installation, to be awaited or for ``async with``."""

    @functools.wraps(method)
    def function(self: Installation, /, *arguments: P.args, **keywords: P.kwargs) -> Loading:
        return Loading(lambda: _threaded(method, True, _native(self), *arguments, **keywords))

    return function


class Installation:
    """As :class:`pajamas.Installation`, whose arguments it takes."""

    def __init__(
        self,
        *,
        home: Optional[StrPath] = None,
        plugin_dirs: Union[StrPath, Sequence[StrPath]] = (),
        offline: bool = False,
        threads: Optional[int] = None,
        backend: Optional[str] = None,
    ) -> None:
        self._installation = _installation.Installation(
            home=home, plugin_dirs=plugin_dirs, offline=offline, threads=threads, backend=backend
        )

    def __repr__(self) -> str:
        return repr(self._installation).replace("pajamas.", "pajamas.aio.", 1)

    quantize = _awaitable(_installation.Installation.quantize)
    forecast = _awaitable(_installation.Installation.forecast)
    load = _loading(_installation.Installation.load)
    validate = _awaitable(_installation.Installation.validate)
    benchmark = _awaitable(_installation.Installation.benchmark)
    sweep = _awaitable(_installation.Installation.sweep)
    pull = _awaitable(_installation.Installation.pull)
    backends = _awaitable(_installation.Installation.backends)
    hardware = _awaitable(_installation.Installation.hardware)
    models = _awaitable(_installation.Installation.models)
    path_of = _awaitable(_installation.Installation.path_of)


def _default() -> Installation:
    """The installation that the functions of the package use, too."""
    installation = object.__new__(Installation)
    installation._installation = _installation.default()
    return installation


quantize = of_default(Installation.quantize, _default)
forecast = of_default(Installation.forecast, _default)
load = of_default(Installation.load, _default)
validate = of_default(Installation.validate, _default)
benchmark = of_default(Installation.benchmark, _default)
sweep = of_default(Installation.sweep, _default)
pull = of_default(Installation.pull, _default)
backends = of_default(Installation.backends, _default)
hardware = of_default(Installation.hardware, _default)
models = of_default(Installation.models, _default)
path_of = of_default(Installation.path_of, _default)


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
            piece: Optional[str] = await _in_thread(next, self._stream, None)
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

    async def __aexit__(self, kind: Optional[Type[BaseException]], *exception: object) -> None:
        self.stop()
        if kind is None:
            async for _ in self:
                pass


class Model:
    """As :class:`pajamas.Model`, to be awaited. Several tasks may use it at once; ``parallel`` of :func:`load` says how many
    of them generate at the same time."""

    def __init__(self, model: _model.Model) -> None:
        #: The model itself.
        self.model = model

    def __repr__(self) -> str:
        return repr(self.model).replace("pajamas.", "pajamas.aio.", 1)

    async def generate(
        self, prompt: Union[str, Sequence[int], Sequence[Message]], **options: Unpack[GenerateOptions]
    ) -> Answer:
        """As :meth:`pajamas.Model.generate`."""
        return await _whole(self.model.stream(prompt, **options))

    async def chat(self, messages: Conversation, **options: Unpack[GenerateOptions]) -> Answer:
        """As :meth:`pajamas.Model.chat`."""
        return await _whole(self.model._stream_chat(messages, **options))

    def stream(
        self, prompt: Union[str, Sequence[int], Sequence[Message]], **options: Unpack[GenerateOptions]
    ) -> Stream:
        """As :meth:`pajamas.Model.stream`."""
        return Stream(self.model.stream(prompt, **options))

    async def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> List[int]:
        """As :meth:`pajamas.Model.tokenize`."""
        return await _in_thread(
            self.model.tokenize, text, add_special=add_special, parse_special=parse_special
        )

    async def detokenize(self, tokens: Sequence[int]) -> str:
        """As :meth:`pajamas.Model.detokenize`."""
        return await _in_thread(self.model.detokenize, tokens)

    async def logits(self, tokens: Sequence[int]) -> numpy.ndarray:
        """As :meth:`pajamas.Model.logits`."""

        def logits(progress: Shown) -> numpy.ndarray:
            with progress as notice:
                return self.model._logits(tokens, notice)

        return await _stoppable(logits)

    async def memory_usage(self) -> MemoryUsage:
        """As :meth:`pajamas.Model.memory_usage`."""
        return await _in_thread(self.model.memory_usage)

    @property
    def info(self) -> Dict[str, Any]:
        """What it is."""
        return self.model.info

    @property
    def backend(self) -> str:
        """The backend that it runs on."""
        return self.model.backend

    @property
    def path(self) -> Path:
        """The file or folder that was loaded."""
        return self.model.path

    @property
    def load_ms(self) -> float:
        """How long loading took."""
        return self.model.load_ms

    @property
    def closed(self) -> bool:
        """Whether it was unloaded."""
        return self.model.closed

    async def close(self) -> None:
        """Unloads it."""
        await _in_thread(self.model.close)

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
        return await _in_thread(wait)
    except asyncio.CancelledError:
        stream.stop()
        raise
