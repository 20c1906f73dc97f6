"""Run a project's own functions: import the file, call it, watch what it touches, and tell whose fault an error is."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.util
import linecache
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from treadle.errors import Location, Problem, StepError, TransientError

MAX_FRAMES = 3
_FOLDERS = ("features", "models", "pipelines", "tests")
_TREADLE = Path(__file__).parent


@contextlib.contextmanager
def loaded(root: Path, path: str, name: str) -> Iterator[Callable[..., Any]]:
    """Load a file of the project as the module that its own imports would find, and give one of its functions.

    Afterwards the project's modules are gone: the next function of the process meets no state of this one.

    Args:
        root: the project's folder.
        path: the file, relative to it.
        name: the function.
    """
    before, search = dict(sys.modules), list(sys.path)
    sys.path[:] = [str(root), *(entry for entry in search if entry != str(root))]
    importlib.invalidate_caches()
    try:
        _bind_folders(root)
        yield getattr(_load(root, path), name)
    finally:
        sys.path[:] = search
        found = [(name, module) for name, module in sys.modules.items() if before.get(name) is not module]
        for module_name, module in found:
            if _is_of_project(module, root):
                del sys.modules[module_name]
        for module_name in before.keys() - sys.modules.keys():
            sys.modules[module_name] = before[module_name]


def _bind_folders(root: Path) -> None:
    """Let the project's folders be the packages of their names, also where one of that name is installed."""
    folders = tuple(folder for folder in _FOLDERS if (root / folder).is_dir())
    for module_name in [name for name in sys.modules if name.startswith(folders)]:
        if module_name.partition(".")[0] in folders:
            del sys.modules[module_name]
    for folder in folders:
        if not (root / folder / "__init__.py").exists():
            spec = ModuleSpec(folder, None, is_package=True)
            spec.submodule_search_locations = [str(root / folder)]
            sys.modules[folder] = importlib.util.module_from_spec(spec)


def _load(root: Path, path: str) -> ModuleType:
    module_name = path.removesuffix(".py").replace("/", ".")
    package, _, last = module_name.rpartition(".")
    parent = importlib.import_module(package) if package else None
    if module_name in sys.modules:  # its package imports it
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, root / path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    spec.loader.exec_module(module)
    if parent is not None:
        setattr(parent, last, module)
    return module


def _is_of_project(module: ModuleType, root: Path) -> bool:
    """Return whether a module lies below the project's folder, and not in an environment that does so too."""
    file = getattr(module, "__file__", None)
    try:
        places = [file] if file else list(getattr(module, "__path__", ()))
    except (KeyError, ImportError):  # a namespace package whose parent is gone
        return False
    place = next((str(place) for place in places), "")
    installed = any(place.startswith(prefix + os.sep) for prefix in _installed_below(root))
    return place.startswith(str(root) + os.sep) and "site-packages" not in place and not installed


@functools.cache
def _installed_below(root: Path) -> list[str]:
    """Return the folders of the running Python that lie in the project's own."""
    folders = (sys.prefix, sys.base_prefix, *sysconfig.get_paths().values())
    return [folder for folder in folders if folder.startswith(str(root) + os.sep)]


def check_unchanged(root: Path, python: Mapping[str, str], what: str) -> None:
    """Refuse a result if a file that made it is no longer what was compiled.

    Raises:
        StepError: TR711.
    """
    for path, digest in python.items():
        try:
            found = text_digest((root / path).read_text("utf-8-sig"))
        except (OSError, UnicodeDecodeError):
            found = ""
        if found != digest:
            fix = "run the same command again"
            raise StepError(Problem("TR711", f"{path} changed while {what} ran", Location(path), fix=fix))


def text_digest(text: str) -> str:
    """Return the sha256 of a Python file's text."""
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def blamed(what: str, root: Path, resume: str) -> Iterator[None]:
    """Turn what user code raises inside into a StepError TR701 that ends with the user's own frame."""
    try:
        yield
    except StepError:
        raise
    except (Exception, SystemExit) as error:
        kind = StepError if isinstance(error, SyntaxError) else TransientError
        raise kind(_raised(what, error, root, resume)) from error


def _raised(what: str, error: BaseException, root: Path, resume: str) -> Problem:
    why = "".join(traceback.format_exception_only(error)).strip().splitlines()
    shown = "\n".join(line[:300] for line in why[:3])
    frames = _own_frames(error.__traceback__, root)
    if isinstance(error, SyntaxError) and error.filename:
        frames = (f"{_relative(error.filename, root)}:{error.lineno or 0}",)
    return Problem("TR701", f"{what} raised {type(error).__name__}", why=shown, fix=resume, frames=frames)


def _own_frames(trace: TracebackType | None, root: Path) -> tuple[str, ...]:
    found: list[str] = []
    for frame in traceback.extract_tb(trace):
        if frame.filename.startswith(str(root) + os.sep):
            line = frame.line or linecache.getline(frame.filename, frame.lineno or 0).strip()
            found.append(f"{_relative(frame.filename, root)}:{frame.lineno} in {frame.name}\n      {line}")
    return tuple(found[-MAX_FRAMES:])


def last_frame(trace: TracebackType | None, root: Path) -> tuple[str, ...]:
    """Return the last frame of the project's code, else the last of Treadle's, as the lines that an error shows."""
    if frames := _own_frames(trace, root):
        return frames[-1:]
    found = [frame for frame in traceback.extract_tb(trace) if Path(frame.filename).is_relative_to(_TREADLE)]
    return tuple(f"{_relative(f.filename, _TREADLE.parent)}:{f.lineno} in {f.name}\n      {f.line}" for f in found[-1:])


def _relative(filename: str, root: Path) -> str:
    return os.path.relpath(filename, root) if filename.startswith(str(root)) else filename


@dataclass
class Watch:
    """What user code touched that its fingerprint does not know of.

    Only what raises an audit event is seen (https://docs.python.org/3/library/audit_events.html): files that Python
    opens, sockets, programs. Readers written in other languages, such as polars' own, are not.
    """

    root: Path
    found: dict[str, None] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    is_on: bool = False

    def notes(self) -> tuple[str, ...]:
        return tuple(self.found)


_watch: Watch | None = None
_is_hooked = False


@contextlib.contextmanager
def watching(root: Path, declared: tuple[Path, ...]) -> Iterator[Watch]:
    """Collect what is touched inside and was not declared; one at a time in a process."""
    global _watch, _is_hooked
    if not _is_hooked:
        # An audit hook cannot be taken away again, hence one for all watches of the process.
        sys.addaudithook(_hook)
        _is_hooked = True
    watch = Watch(root)
    _watch, _trusted[:] = watch, (*map(str, declared), *_trusted_folders(root))
    watch.is_on = True
    try:
        yield watch
    finally:
        watch.is_on = False
        _watch = None


_trusted: list[str] = []


@functools.cache
def _trusted_folders(root: Path) -> tuple[str, ...]:
    installed = [sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    system = ["/proc", "/dev", "/sys", "/etc/localtime", "/usr/share/zoneinfo", "/etc/ssl"]
    return (*installed, *system, str(root / ".treadle"), sys.prefix, sys.base_prefix)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    watch = _watch
    if watch is None or not watch.is_on:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, (str, bytes)):
            _see_file(watch, os.path.abspath(os.fsdecode(path)), writes=bool(flags & (os.O_WRONLY | os.O_RDWR)))
    elif event == "socket.connect":
        watch.found[f"it connects to {arguments[1]!r}, which its fingerprint cannot know"] = None
    elif event == "subprocess.Popen":
        watch.found[f"it runs {arguments[0]!r}, which its fingerprint cannot know"] = None


def _see_file(watch: Watch, path: str, *, writes: bool) -> None:
    if writes:
        watch.written.add(path)
    is_code = path.endswith((".py", ".pyc")) and path.startswith(str(watch.root) + os.sep)
    if is_code or path in watch.written or any(path == f or path.startswith(f + os.sep) for f in _trusted):
        return
    watch.found[f"it opens {path}, which is no declared source: a change there will not re-run it"] = None
