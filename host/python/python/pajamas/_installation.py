"""The functions of the package, and an installation for those who want another than the usual one."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import numbers
import operator
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, TypeVar, Union

from . import _native
from ._errors import UsageError, in_python
from ._model import Model
from ._progress import Progress, shown
from ._results import Backend, ModelRecord, Quantized, Report

if TYPE_CHECKING:
    from typing_extensions import Concatenate, ParamSpec

    P = ParamSpec("P")
T = TypeVar("T")
N = TypeVar("N", int, Optional[int])

#: The programs and plugins that the wheel carries: ``bin`` and ``lib/pajamas/plugins``.
BUNDLE = Path(__file__).parent / "_bundle"

#: A path, an id (``org/name``, ``org/name@revision``), the name of a model that was made, or what :func:`quantize` gave.
ModelReference = Union[str, "os.PathLike[str]"]

#: The path of a file or folder.
StrPath = Union[str, "os.PathLike[str]"]

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS.update({"k": 2**10, "kib": 2**10, "m": 2**20, "mib": 2**20, "g": 2**30, "gib": 2**30, "t": 2**40, "tib": 2**40})


def _size(size: Union[int, float, str]) -> int:
    """``6GiB`` in bytes."""
    try:
        if isinstance(size, bool):
            raise TypeError
        if isinstance(size, (int, float)):
            value = int(size)
        else:
            parts = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", size.lower())
            value = int(float(parts[1]) * _UNITS[parts[2]])  # type: ignore[index]
        if 0 < value < 2**64:
            return value
    except (AttributeError, TypeError, KeyError, ValueError, OverflowError):
        pass
    raise UsageError(f"expected a size as in `6GiB` or `500MB`, got {size!r}", kind="usage")


@contextlib.contextmanager
def _partial() -> Iterator[None]:
    """What was measured before the work was stopped is ``partial`` of the exception that stopped it."""
    try:
        yield
    except BaseException as error:
        partial = error.__dict__.pop("_partial", None)
        if partial is not None:
            error.__dict__["partial"] = _report(partial)
        raise


def _texts(options: Optional[Mapping[str, Any]]) -> Dict[str, str]:
    """Options as a user writes them on the command line; none is as not given."""
    if not isinstance(options or {}, Mapping):
        raise TypeError(f"`options` must be a mapping from names to values, got {options!r:.100}")
    return {name: _text(value) for name, value in (options or {}).items() if value is not None}


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ";".join(f"{name}={_text(part)}" for name, part in value.items())
    if isinstance(value, (list, tuple)):
        return ";".join(map(_text, value))
    if isinstance(value, os.PathLike):
        return path_text(value)
    if not isinstance(value, (str, numbers.Real)):
        raise TypeError(f"an option's value is a text, a number, a truth value, a path or several of them, got {value!r:.100}")
    return str(value)


def path_text(path: StrPath) -> str:
    """A path, or what else names a model, as the extension module takes it."""
    text = os.fsdecode(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        hint = "rename it, or work in another folder"
        raise UsageError(f"the name of a file or folder is not UTF-8: {text!r}", kind="usage", hint=hint) from None
    return text


def _path(path: Optional[StrPath]) -> Optional[str]:
    return None if path is None else path_text(path)


def _several(values: Union[int, Sequence[int]]) -> List[int]:
    listed: List[Any] = [values] if isinstance(values, numbers.Integral) else list(values)  # type: ignore[arg-type]
    return [operator.index(value) for value in listed]


def _at_least_one(name: str, count: N) -> N:
    if count is not None and count < 1:
        raise UsageError(f"`{name}` must be at least 1, got {count!r}", kind="usage")
    return count


def _names(values: Union[None, str, Sequence[str]]) -> List[str]:
    return [values] if isinstance(values, str) else list(values or ())


def _report(text: str) -> Report:
    report: Report = json.loads(text)
    if "notes" in report:
        report["notes"] = [in_python(note) for note in report["notes"]]
    return report


class Installation:
    """Settings, plugins and models in one place. Without arguments it is that of the program ``pajamas``: ``PAJAMAS_HOME`` or
    ``~/.pajamas``, with the plugins of this package behind those that are installed there.

    :param home: the folder of settings, models and plugins.
    :param plugin_dirs: further folders, in which plugins are looked for first.
    :param offline: never ask the hub.
    :param threads: threads to compute with.
    :param backend: the backend to prefer.
    """

    def __init__(
        self,
        *,
        home: Optional[StrPath] = None,
        plugin_dirs: Union[StrPath, Sequence[StrPath]] = (),
        offline: bool = False,
        threads: Optional[int] = None,
        backend: Optional[str] = None,
    ) -> None:
        folders = [plugin_dirs] if isinstance(plugin_dirs, (str, os.PathLike)) else plugin_dirs
        self._home = home
        self._native = _native.Installation(
            home=_path(home),
            plugin_dirs=[path_text(folder) for folder in folders],
            prefix=str(BUNDLE) if BUNDLE.is_dir() else None,
            offline=offline,
            threads=threads,
            backend=backend,
        )

    def __repr__(self) -> str:
        return f"<pajamas.Installation{'' if self._home is None else f' in {os.fspath(self._home)!r}'}>"

    def quantize(
        self,
        model: ModelReference,
        method: Optional[str] = None,
        *,
        format: Optional[str] = None,
        options: Optional[Mapping[str, Any]] = None,
        output_dir: Optional[StrPath] = None,
        name: Optional[str] = None,
        force: bool = False,
        fit: Union[None, int, float, str] = None,
        max_kld: Optional[float] = None,
        max_degradation: Optional[float] = None,
        validate: Optional[bool] = None,
        text: Optional[StrPath] = None,
        tokens: Optional[int] = None,
        isolated: bool = True,
        progress: Progress = False,
    ) -> Quantized:
        """Makes a quantized model of a Hugging Face folder or id, or a GGUF file, and measures it against its source.

        :param method: ``Q4_K_M`` (the default), ``Q8_0``, …; for MLX ``4bit`` and so on.
        :param format: ``gguf`` (the default) or ``mlx``.
        :param options: options of the method: ``{"calibration": "text.txt"}``.
        :param output_dir: the folder to write to, instead of ``~/.pajamas/models``.
        :param name: the name of the model, instead of one made of the source's, the method's and the options'.
        :param force: replace another model of that name.
        :param fit: the largest size allowed, in bytes or as ``"6GiB"``: the best that fits is found by measuring. Not with
            ``method``.
        :param max_kld: the mean KL divergence from the source to allow, in nats: without ``method``, the smallest that keeps
            to it is found by measuring.
        :param max_degradation: how much perplexity may grow; 0.05, five percent, without it, and 1.0 with ``fit`` alone.
        :param validate: ``False`` does not measure, ``True`` raises where that cannot be done.
        :param text: a file to measure on.
        :param tokens: tokens of it to read at the most: 2048 without it, in a search 8192.
        :param isolated: run what is measured in processes of its own, so that a crash of an engine is an exception.
        :raises QualityTooLowError: when nothing that can be made fits or is good enough. A model that was made by a named
            ``method`` and is not good enough is no exception: see :attr:`Quantized.passed`.
        :raises PajamasError: when making fails, and then nothing is left; or measuring, and then ``made`` of the exception is the
            :class:`Quantized` that is there all the same. So it is of an exception that stops the measuring (Ctrl-C, one of a
            callback).
        """
        with shown(progress) as notice:
            return self._quantize(
                model,
                method=method,
                format=format,
                options=options,
                output_dir=_path(output_dir),
                name=name,
                force=force,
                fit=None if fit is None else _size(fit),
                max_kld=max_kld,
                max_degradation=max_degradation,
                measure=validate,
                text=_path(text),
                tokens=tokens,
                isolated=isolated,
                on_notice=notice,
            )

    def forecast(
        self,
        model: ModelReference,
        method: Optional[str] = None,
        *,
        format: Optional[str] = None,
        options: Optional[Mapping[str, Any]] = None,
        progress: Progress = False,
    ) -> Quantized:
        """What :meth:`quantize` would make, tensor by tensor in ``report``; nothing is written. Tensors that cannot be made
        without an importance matrix are in its ``notes``.

        :param method: ``Q4_K_M`` (the default), ``Q8_0``, ….
        :param format: ``gguf`` (the default); quantizers of other formats may not be able to say.
        :param options: options of the method, as :meth:`quantize` takes them.
        """
        with shown(progress) as notice:
            return self._quantize(
                model, method=method, format=format, options=options, dry_run=True, on_notice=notice
            )

    def _quantize(self, model: ModelReference, *, options: Optional[Mapping[str, Any]], **given: Any) -> Quantized:
        names = ("output_dir", "name", "fit", "max_kld", "max_degradation", "measure", "text", "tokens", "on_notice")
        arguments = {**dict.fromkeys(names), "force": False, "isolated": True, "dry_run": False, **given}
        try:
            made = self._native.quantize(path_text(model), options=_texts(options), **arguments)
        except BaseException as error:
            made = error.__dict__.pop("_made", None)
            if made is not None:
                error.__dict__["made"] = Quantized._of(json.loads(made))
            raise
        return Quantized._of(json.loads(made))

    def load(
        self,
        model: ModelReference,
        backend: Optional[str] = None,
        *,
        strict: bool = False,
        method: Optional[str] = None,
        context_length: Optional[int] = None,
        parallel: Optional[int] = None,
        threads: Optional[int] = None,
        options: Optional[Mapping[str, Any]] = None,
        isolated: bool = True,
        progress: Progress = False,
    ) -> Model:
        """Opens a model, on the best backend or the one named, fetching and quantizing it first where it must.

        :param backend: the backend to run on; where it cannot, the next best does, with a warning.
        :param strict: raise where that backend cannot run.
        :param method: the quantization method, where the model must be made first.
        :param context_length: tokens of context; the model's without it, 4096 at the most.
        :param parallel: how many requests may run at once, 1 without it. Each takes memory for its context.
        :param threads: threads to compute with.
        :param options: options of the backend: ``{"n_gpu_layers": 20}``; ``pajamas plugins info BACKEND`` lists them.
        :param isolated: run it in a process of its own, so that a crash of its engine is a :class:`WorkerError`. ``False``
            loads it into this process, where such a crash would be the end of both.
        """
        with shown(progress) as notice:
            native = self._native.load(
                path_text(model),
                backend=backend,
                strict=strict,
                method=method,
                context_length=context_length,
                parallel=_at_least_one("parallel", parallel),
                threads=threads,
                options=_texts(options),
                isolated=isolated,
                on_notice=notice,
            )
        return Model(native)

    def validate(
        self,
        model: ModelReference,
        reference: Optional[ModelReference] = None,
        *,
        backend: Optional[str] = None,
        text: Optional[StrPath] = None,
        tokens: Optional[int] = None,
        window: Optional[int] = None,
        max_kld: Optional[float] = None,
        max_degradation: Optional[float] = None,
        isolated: bool = True,
        progress: Progress = False,
    ) -> Report:
        """Measures how much worse a model is than what it was made from, or than ``reference``. A model that is not good
        enough is no exception: see ``["verdict"]["passed"]``; the verdict is ``None`` where there is nothing to compare with,
        as for a model outside of ``~/.pajamas/models`` whose source is not named. Of a source itself, the best model that was
        made of it is measured, and one is made where there is none.

        :param reference: what to compare with, instead of what it was made from.
        :param backend: the backend to run both on, where it can.
        :param text: a file to measure on, instead of ``validation.txt`` in the source's folder or the bundled text.
        :param tokens: tokens of it to read at the most: 8192 without it.
        :param window: tokens that are read at a time, each window on its own: 512 without it.
        :param max_kld: the mean KL divergence to allow, in nats; without it, what the model was made under.
        :param max_degradation: how much perplexity may grow; without it, what the model was made under, else 0.05, five percent.
        :param isolated: run both in processes of their own, so that a crash of an engine is an exception.
        """
        with shown(progress) as notice:
            report = self._native.validate(
                path_text(model),
                reference=_path(reference),
                backend=backend,
                text=_path(text),
                tokens=tokens,
                window=window,
                max_kld=max_kld,
                max_degradation=max_degradation,
                isolated=isolated,
                on_notice=notice,
            )
        return _report(report)

    def benchmark(
        self,
        models: Union[ModelReference, Sequence[ModelReference]],
        *,
        backends: Union[None, str, Sequence[str]] = None,
        prompt_tokens: Union[int, Sequence[int]] = 512,
        generate_tokens: Union[int, Sequence[int]] = 128,
        depths: Union[int, Sequence[int]] = 0,
        repetitions: int = 5,
        method: Optional[str] = None,
        progress: Progress = False,
    ) -> Report:
        """Measures speed, time to first token, load time and memory, each model on each backend in a process of its own.

        :param backends: their names, or ``"all"``; the best without it.
        :param prompt_tokens: one length of prompt to process, or several; 0 for none.
        :param generate_tokens: how many tokens to generate, one number or several; 0 for none.
        :param depths: how many tokens the KV cache holds before each test, one number or several.
        :param repetitions: how often each test is measured.
        :param method: the quantization method, where a model must be made first.

        An exception that stops it (Ctrl-C, one of a callback) has what was measured by then as its attribute ``partial``.
        """
        several = [models] if isinstance(models, (str, os.PathLike)) else models
        with _partial(), shown(progress) as notice:
            report = self._native.benchmark(
                [path_text(model) for model in several],
                backends=_names(backends),
                prompt_tokens=_several(prompt_tokens),
                generate_tokens=_several(generate_tokens),
                depths=_several(depths),
                repetitions=_at_least_one("repetitions", repetitions),
                method=method,
                on_notice=notice,
            )
        return _report(report)

    def sweep(
        self,
        model: ModelReference,
        methods: Union[None, str, Sequence[str]] = None,
        *,
        formats: Union[None, str, Sequence[str]] = None,
        keep: bool = False,
        text: Optional[StrPath] = None,
        tokens: Optional[int] = None,
        prompt_tokens: int = 512,
        generate_tokens: int = 128,
        repetitions: Optional[int] = None,
        isolated: bool = True,
        progress: Progress = False,
    ) -> Report:
        """Makes a model by several methods and measures the size, quality and speed of each.

        :param methods: one or several; the usual ones of each format without it.
        :param formats: one or several; all that can be made and run here without it.
        :param keep: keep the models that are made.
        :param text: a file to measure on.
        :param tokens: tokens of it to read at the most: 8192 without it.
        :param prompt_tokens: tokens of prompt to time.
        :param generate_tokens: tokens of answer to time.
        :param repetitions: how often each is timed: 3 times without it.
        :param isolated: run what is measured in processes of its own, so that a crash of an engine is an exception.

        An exception that stops it (Ctrl-C, one of a callback) has what was measured by then as its attribute ``partial``.
        """
        with _partial(), shown(progress) as notice:
            report = self._native.sweep(
                path_text(model),
                methods=_names(methods),
                formats=_names(formats),
                keep=keep,
                text=_path(text),
                tokens=tokens,
                speed=(prompt_tokens, generate_tokens),
                repetitions=_at_least_one("repetitions", repetitions),
                isolated=isolated,
                on_notice=notice,
            )
        return _report(report)

    def pull(self, model: str, *, file: Optional[str] = None, progress: Progress = False) -> Path:
        """Downloads a model from the Hub into Hugging Face's cache, as far as it is not there, and gives its file or folder.

        :param file: of a repository of several GGUF files, this one, with all its parts.
        """
        with shown(progress) as notice:
            return Path(self._native.pull(model, file=file, on_notice=notice))

    def backends(self, *, rescan: bool = False) -> List[Backend]:
        """Every plugin that was found, the best first. ``rescan`` asks all of them again."""
        return [Backend._of(backend) for backend in json.loads(self._native.backends(rescan))]

    def hardware(self) -> Report:
        """This machine: CPU, cores, memory."""
        return _report(self._native.hardware())

    def models(self) -> List[ModelRecord]:
        """The models that were made and are kept."""
        return [ModelRecord._of(record) for record in json.loads(self._native.models())]

    def path_of(self, model: ModelReference) -> Path:
        """The file or folder that a reference means, where it is on this machine."""
        return Path(self._native.path_of(path_text(model)))


_default: Optional[Installation] = None
_default_lock = threading.Lock()


def default() -> Installation:
    """The installation that the functions of the module use; begun at the first of them."""
    global _default
    with _default_lock:
        if _default is None:
            _default = Installation()
        return _default


S = TypeVar("S")


def of_default(method: Callable[Concatenate[S, P], T], installation: Callable[[], S]) -> Callable[P, T]:
    """A function that does ``method`` with the usual installation."""

    @functools.wraps(method)
    def function(*arguments: P.args, **keywords: P.kwargs) -> T:
        return method(installation(), *arguments, **keywords)

    signature = inspect.signature(method)
    function.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])  # type: ignore[attr-defined]
    function.__qualname__ = method.__name__
    return function


quantize = of_default(Installation.quantize, default)
forecast = of_default(Installation.forecast, default)
load = of_default(Installation.load, default)
validate = of_default(Installation.validate, default)
benchmark = of_default(Installation.benchmark, default)
sweep = of_default(Installation.sweep, default)
pull = of_default(Installation.pull, default)
backends = of_default(Installation.backends, default)
hardware = of_default(Installation.hardware, default)
models = of_default(Installation.models, default)
path_of = of_default(Installation.path_of, default)
