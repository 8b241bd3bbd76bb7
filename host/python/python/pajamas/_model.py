"""A loaded model."""

from __future__ import annotations

import dataclasses
import json
import numbers
import operator
import threading
from pathlib import Path
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Type,
    TypedDict,
    Union,
)

from . import _native
from ._errors import UsageError
from ._results import Answer, MemoryUsage

if TYPE_CHECKING:
    import numpy
    from typing_extensions import Unpack

_ROLES = ("system", "user", "assistant", "tool", "developer")

#: One message of a conversation: ``{"role": "user", "content": "Hi"}``; roles are ``system``, ``user``, ``assistant``, and, where
#: the model's chat template knows them, ``tool`` and ``developer``. The content is a text, or a list of parts
#: ``{"type": "text", "text": …}``.
Message = Mapping[str, Any]

#: A question, or the messages of a conversation.
Conversation = Union[str, Sequence[Message]]


class GenerateOptions(TypedDict, total=False):
    """How to generate: the keywords of :meth:`Model.generate`, :meth:`Model.chat` and :meth:`Model.stream`."""

    #: Tokens to generate at the most: 512 without it.
    max_tokens: Optional[int]
    #: 0 takes the likeliest token always; 0.7 without it.
    temperature: Optional[float]
    #: Chooses among this many likeliest tokens, 0 among all; 40 without it.
    top_k: Optional[int]
    #: Chooses among the likeliest tokens that reach this probability together; 0.9 without it.
    top_p: Optional[float]
    #: Chooses among tokens at least this fraction as likely as the likeliest; 0 without it.
    min_p: Optional[float]
    #: Makes recent tokens less likely; 1, which does not, without it.
    repeat_penalty: Optional[float]
    #: How many recent tokens the penalty looks at; 64 without it.
    repeat_last_n: Optional[int]
    #: The same seed gives the same answer.
    seed: Optional[int]
    #: A text, or several, before which the answer ends.
    stop: Union[None, str, Sequence[str]]
    #: A number: requests of the same session do not compute again what their prompts have in common.
    session: Optional[int]
    #: Goes on where the model would end its turn.
    ignore_eos: bool


@dataclasses.dataclass(frozen=True)
class _Options:
    """The same, with everything in it, for the extension module, which reads the attributes."""

    max_tokens: Optional[int] = None
    temperature: Optional[float] = None
    top_k: Optional[int] = None
    top_p: Optional[float] = None
    min_p: Optional[float] = None
    repeat_penalty: Optional[float] = None
    repeat_last_n: Optional[int] = None
    seed: Optional[int] = None
    stop: Sequence[str] = ()
    session: Optional[int] = None
    ignore_eos: bool = False


_NAMES = list(GenerateOptions.__annotations__)
_FRACTIONS = ("temperature", "top_p", "min_p", "repeat_penalty")
_COUNTS = ("max_tokens", "top_k", "repeat_last_n", "seed", "session")


def _options(given: Mapping[str, Any]) -> _Options:
    for name, value in given.items():
        if name not in _NAMES:
            raise TypeError(f"unexpected keyword argument {name!r}; known are {', '.join(_NAMES)}")
        if value is None:
            continue
        if name in _FRACTIONS and not isinstance(value, numbers.Real):
            raise TypeError(f"`{name}` must be a number, got {value!r}")
        if name in _COUNTS:
            if not isinstance(value, numbers.Integral):
                raise TypeError(f"`{name}` must be a whole number, got {value!r}")
            most = 2**64 - 1 if name in ("seed", "session") else 2**32 - 1
            if not 0 <= int(value) <= most:
                raise UsageError(f"`{name}` must be from 0 to {most}, got {value!r}", kind="usage")
    stop = given.get("stop") or ()
    stops = [stop] if isinstance(stop, str) else list(stop)
    if not all(isinstance(text, str) for text in stops):
        raise TypeError(f"`stop` must be a text or several, got {stop!r}")
    return _Options(**{**given, "stop": [text_of(text) for text in stops], "ignore_eos": bool(given.get("ignore_eos"))})


def _messages(conversation: Conversation) -> List[Tuple[str, str]]:
    if isinstance(conversation, str):
        return [("user", text_of(conversation))]
    try:
        messages = [(str(message["role"]), text_of(_content(message["content"]))) for message in conversation]
    except (KeyError, TypeError) as error:
        expected = 'expected messages such as {"role": "user", "content": "Hi"}'
        raise TypeError(f"{expected}, got {conversation!r}") from error
    if not messages:
        raise UsageError("there are no messages", kind="usage", hint='chat takes a question, or [{"role": "user", …}]')
    for role, _ in messages:
        if role not in _ROLES:
            raise UsageError(f"unknown role {role!r}", kind="usage", hint=f"roles: {', '.join(_ROLES)}")
    return messages


def _content(content: Any) -> str:
    """A text, or what OpenAI's interface has in its place: parts, here of text alone."""
    if isinstance(content, str):
        return content
    if any(part["type"] != "text" for part in content):
        raise TypeError("only text can be asked about")
    return "".join(part["text"] for part in content)


def _tokens(tokens: Sequence[int]) -> List[int]:
    """Token ids, NumPy's integers too."""
    try:
        listed = None if isinstance(tokens, (str, bytes)) else [operator.index(token) for token in tokens]
    except TypeError:
        listed = None
    if listed is None or any(not 0 <= token < 2**32 for token in listed):
        raise TypeError(f"expected token ids, as `tokenize` gives them, got {tokens!r:.100}")
    return listed


def text_of(text: str) -> str:
    """``text``, which can be handed on: half of a character cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"this is no text: {text!r:.100}: {error.reason}", kind="usage") from None
    return text


def _prompt(prompt: Union[str, Sequence[int], Sequence[Message]]) -> Union[str, List[int], List[Tuple[str, str]]]:
    if isinstance(prompt, str):
        return text_of(prompt)
    if isinstance(prompt, Mapping):
        raise TypeError(f"expected a text, tokens or a list of messages, got {prompt!r:.100}")
    parts: List[Any] = list(prompt)
    if parts and isinstance(parts[0], Mapping):
        return _messages(parts)
    return _tokens(parts)


class Stream:
    """An answer that is being generated, whether or not somebody takes it: iterate over it for its pieces of text. Leaving the
    ``with`` block, or letting go of it, stops it."""

    def __init__(self, native: _native.Stream) -> None:
        self._native = native
        self._answer: Optional[Answer] = None

    def __repr__(self) -> str:
        return f"<pajamas.Stream ({'going on' if self.answer is None else 'ended'})>"

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        piece = self._native.next_piece()
        if piece is None:
            raise StopIteration
        return piece

    def stop(self) -> None:
        """Ends it soon; what came until then is the answer. Any thread may call it."""
        self._native.stop()

    @property
    def answer(self) -> Optional[Answer]:
        """The whole answer and how fast it came, once the iteration has ended; none before."""
        if self._answer is None:
            result = self._native.result()
            self._answer = None if result is None else Answer._of(json.loads(result))
        return self._answer

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], *exception: object) -> None:
        self._native.stop()
        if kind is not None:
            # What went wrong is more than how the answer ended.
            self._native.close()
            return
        for _ in self:
            pass


class Model:
    """A loaded model, from :func:`pajamas.load`. Any thread may use it, also while another does; a ``with`` block or
    :meth:`close` unloads it.

    How to generate is said by keywords, those of :class:`GenerateOptions`.
    """

    def __init__(self, native: _native.Model) -> None:
        self._native = native
        self._info: Optional[str] = None
        self._lock = threading.Lock()

    def generate(self, prompt: Union[str, Sequence[int], Sequence[Message]], **options: Unpack[GenerateOptions]) -> Answer:
        """Goes on with a text as it is, with tokens, or answers messages. Control tokens in a text are read as such; what
        users typed belongs into messages."""
        return Answer._of(json.loads(self._native.generate(_prompt(prompt), _options(options))))

    def chat(self, messages: Conversation, **options: Unpack[GenerateOptions]) -> Answer:
        """Answers a question or a conversation, through the model's own chat template."""
        return Answer._of(json.loads(self._native.generate(_messages(messages), _options(options))))

    def _stream_chat(self, messages: Conversation, **options: Unpack[GenerateOptions]) -> Stream:
        """As :meth:`chat`, piece by piece."""
        return Stream(self._native.stream(_messages(messages), _options(options)))

    def stream(self, prompt: Union[str, Sequence[int], Sequence[Message]], **options: Unpack[GenerateOptions]) -> Stream:
        """As :meth:`generate`, piece by piece. Generating begins at once."""
        return Stream(self._native.stream(_prompt(prompt), _options(options)))

    def tokenize(self, text: str, *, add_special: bool = False, parse_special: bool = False) -> List[int]:
        """The tokens of a text. ``add_special`` adds what the model wants around one (BOS), ``parse_special`` reads control
        tokens."""
        return self._native.tokenize(text_of(text), add_special=add_special, parse_special=parse_special)

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of tokens; what is no UTF-8 becomes U+FFFD."""
        return bytes(self._native.detokenize(_tokens(tokens))).decode("utf-8", "replace")

    def logits(self, tokens: Sequence[int]) -> numpy.ndarray:
        """What the model expects after each of ``tokens``, read from an empty context: an array of float32, a row for each
        token, a column for each token of the vocabulary. Needs NumPy."""
        return self._logits(tokens, None)

    def _logits(self, tokens: Sequence[int], notice: Optional[Callable[[str, str, str, float], None]]) -> numpy.ndarray:
        import numpy

        values, vocabulary_size = self._native.logits(_tokens(tokens), on_notice=notice)
        return numpy.frombuffer(values, dtype="<f4").reshape(-1, vocabulary_size)

    def memory_usage(self) -> MemoryUsage:
        """What it holds."""
        return MemoryUsage._of(json.loads(self._native.memory_usage()))

    @property
    def info(self) -> Dict[str, Any]:
        """What it is: ``architecture``, ``parameter_count``, ``context_length``, ``vocabulary_size``, ``chat_templates``, …"""
        with self._lock:
            if self._info is None:
                self._info = self._native.info()
        info: Dict[str, Any] = json.loads(self._info)
        return info

    @property
    def backend(self) -> str:
        """The backend that it runs on."""
        return self._native.backend

    @property
    def path(self) -> Path:
        """The file or folder that was loaded."""
        return Path(self._native.path)

    @property
    def load_ms(self) -> float:
        """How long loading took."""
        return self._native.load_ms

    @property
    def closed(self) -> bool:
        """Whether it was unloaded."""
        return self._native.closed

    def close(self) -> None:
        """Unloads it, once what is being generated elsewhere has ended: a stream keeps its model. Closing twice is fine."""
        self._native.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        value: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self.closed:
            return "<pajamas.Model (closed)>"
        return f"<pajamas.Model {self.path.name!r} on {self.backend}>"
