"""Who is told how a piece of work goes: a callback, tqdm's bar, or nobody."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any, Callable, Optional, Union

from ._errors import in_python
from ._results import Notice

#: ``True`` shows a bar where tqdm is installed, ``False`` nothing; a function is called with each notice, on the thread that
#: called. An exception that it raises stops the work and is raised by the call.
Progress = Union[bool, Callable[[Notice], None]]


class Shown:
    """A context in which notices go where ``progress`` says. Warnings always become Python's."""

    def __init__(self, progress: Progress) -> None:
        if not (callable(progress) or isinstance(progress, bool) or progress is None):
            raise TypeError(f"`progress` must be True, False or a function, got {progress!r}")
        self._callback = progress if callable(progress) else None
        self._bar: Optional[Any] = _bar() if progress is True else None

    def __enter__(self) -> Callable[[str, str, str, float], None]:
        return self._notice

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def _notice(self, kind: str, text: str, stage: str, fraction: float) -> None:
        if kind in ("warning", "note"):
            text = in_python(text)
        if kind == "warning":
            warnings.warn(text, RuntimeWarning, stacklevel=_depth())
        if kind == "alive":
            # Nothing was said; whoever wants to stop the work may raise.
            return
        if self._callback is not None:
            self._callback(Notice(kind, text, stage, fraction))
        elif self._bar is not None:
            if kind == "progress":
                self._bar.set_description_str(stage)
                self._bar.set_postfix_str(text)
                self._bar.n = round(fraction, 4)
                self._bar.refresh()
            elif kind == "note":
                self._bar.write(text, file=sys.stderr)


def _depth() -> int:
    """How many calls up the user's own code is."""
    package = os.path.dirname(__file__)
    frame, depth = sys._getframe(1), 1
    while frame.f_back is not None and os.path.dirname(frame.f_code.co_filename) == package:
        frame, depth = frame.f_back, depth + 1
    return depth


def _bar() -> Optional[Any]:
    # A program without a console has nothing to draw on.
    if sys.stderr is None:
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(total=1.0, bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}", leave=False)


def shown(progress: Union[Progress, Shown]) -> Shown:
    """Where notices go: as ``progress`` says, or where they already go."""
    return progress if isinstance(progress, Shown) else Shown(progress)
