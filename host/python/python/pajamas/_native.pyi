"""What the extension module has. Methods that give ``str`` give JSON."""

from os import PathLike
from pathlib import Path
from typing import Callable, List, Mapping, Optional, Sequence, Tuple, Union

__version__: str

def end() -> None: ...

_Notice = Optional[Callable[[str, str, str, float], None]]
_Path = Union[str, PathLike[str]]
_Prompt = Union[str, Sequence[int], Sequence[Tuple[str, str]]]

class Installation:
    def __new__(
        cls,
        *,
        home: Optional[_Path] = None,
        plugin_dirs: Sequence[_Path] = ...,
        prefix: Optional[_Path] = None,
        offline: bool = False,
        threads: Optional[int] = None,
        backend: Optional[str] = None,
    ) -> Installation: ...
    def quantize(
        self,
        model: str,
        *,
        method: Optional[str],
        format: Optional[str],
        options: Mapping[str, str],
        output_dir: Optional[_Path],
        name: Optional[str],
        force: bool,
        fit: Optional[int],
        max_kld: Optional[float],
        max_degradation: Optional[float],
        measure: Optional[bool],
        text: Optional[_Path],
        tokens: Optional[int],
        isolated: bool,
        dry_run: bool,
        on_notice: _Notice,
    ) -> str: ...
    def load(
        self,
        model: str,
        *,
        backend: Optional[str],
        strict: bool,
        method: Optional[str],
        context_length: Optional[int],
        parallel: Optional[int],
        threads: Optional[int],
        options: Mapping[str, str],
        isolated: bool,
        on_notice: _Notice,
    ) -> Model: ...
    def validate(
        self,
        model: str,
        *,
        reference: Optional[str],
        backend: Optional[str],
        text: Optional[_Path],
        tokens: Optional[int],
        window: Optional[int],
        max_kld: Optional[float],
        max_degradation: Optional[float],
        isolated: bool,
        on_notice: _Notice,
    ) -> str: ...
    def benchmark(
        self,
        models: Sequence[str],
        *,
        backends: Sequence[str],
        prompt_tokens: Sequence[int],
        generate_tokens: Sequence[int],
        depths: Sequence[int],
        repetitions: int,
        method: Optional[str],
        on_notice: _Notice,
    ) -> str: ...
    def sweep(
        self,
        model: str,
        *,
        methods: Sequence[str],
        formats: Sequence[str],
        keep: bool,
        text: Optional[_Path],
        tokens: Optional[int],
        speed: Tuple[int, int],
        repetitions: Optional[int],
        isolated: bool,
        on_notice: _Notice,
    ) -> str: ...
    def pull(self, reference: str, *, file: Optional[str], on_notice: _Notice) -> Path: ...
    def backends(self, rescan: bool) -> str: ...
    def hardware(self) -> str: ...
    def models(self) -> str: ...
    def path_of(self, model: str) -> Path: ...

class Model:
    def close(self) -> None: ...
    @property
    def closed(self) -> bool: ...
    def info(self) -> str: ...
    @property
    def backend(self) -> str: ...
    @property
    def path(self) -> Path: ...
    @property
    def load_ms(self) -> float: ...
    def generate(self, prompt: _Prompt, options: object) -> str: ...
    def stream(self, prompt: _Prompt, options: object) -> Stream: ...
    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> List[int]: ...
    def detokenize(self, tokens: Sequence[int]) -> bytes: ...
    def logits(self, tokens: Sequence[int], *, on_notice: _Notice) -> Tuple[bytearray, int]: ...
    def memory_usage(self) -> str: ...

class Stream:
    def next_piece(self) -> Optional[str]: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    def result(self) -> Optional[str]: ...
