"""What one statement of a project's Python leads to: names, modules, things outside, and what is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from treadle.pymodule import Atom, Module
from treadle.pyscope import Alias, Use
from treadle.pysource import Defined, External, Sources, Target, Whole

READS_SOURCE = "reads code, docstrings or annotations as data"
_BY_NAME = "looks a name up that is only known when it runs"
_RUNS_TEXT = "runs code that stands in no file of the project"
_LOADS = "loads code that is only known when it runs"
_PROGRAM = "runs another program, which can run code of the project"
_EXEC = tuple(f"os.{verb}{form}" for verb in ("exec", "spawn") for form in ("l", "v", "le", "ve", "lp", "vp", "vpe"))

_UNKNOWN_BUILTINS = {
    **dict.fromkeys(("exec", "eval", "compile"), _RUNS_TEXT),
    **dict.fromkeys(("globals", "getattr", "hasattr", "__builtins__", "__loader__", "__spec__"), _BY_NAME),
    "__import__": _LOADS,
}
_UNKNOWN = {
    **dict.fromkeys(("builtins", "importlib", "imp", "runpy", "pkgutil", "zipimport", "code", "codeop", "gc"), _LOADS),
    **dict.fromkeys(("pickle.load", "pickle.loads", "pickle.Unpickler", "dill", "cloudpickle", "marshal"), _LOADS),
    **dict.fromkeys(("shelve", "joblib.load", "torch.load", "pandas.read_pickle", "pydoc.locate"), _LOADS),
    **dict.fromkeys(("types.FunctionType", "types.CodeType", "types.ModuleType"), _RUNS_TEXT),
    **dict.fromkeys(("sys.modules", "sys._getframe", "sys.meta_path", "sys.path_hooks", "sys.settrace"), _BY_NAME),
    **dict.fromkeys(("inspect.currentframe", "inspect.stack", "inspect.getmodule"), _BY_NAME),
    **dict.fromkeys(("subprocess", "os.system", "os.popen", "os.fork", "os.startfile", "pty", *_EXEC), _PROGRAM),
}
_KNOWN = ("importlib.resources", "importlib.metadata", "importlib.abc")
_SOURCE_READERS = frozenset(
    {
        *(
            "inspect.getsource",
            "inspect.getsourcelines",
            "inspect.getsourcefile",
            "inspect.getdoc",
            "inspect.getcomments",
        ),
        *("inspect.signature", "inspect.get_annotations", "inspect.getfullargspec", "typing.get_type_hints"),
        *("linecache", "tokenize", "annotationlib", "doctest"),
    }
)
_UNKNOWN_ATTRIBUTES = {
    **dict.fromkeys(("__globals__", "__builtins__", "f_globals", "f_locals", "f_back", "__loader__"), _BY_NAME),
    **dict.fromkeys(("__code__", "__reduce__", "__reduce_ex__", "__closure__"), _RUNS_TEXT),
}
_SOURCE_NAMES = frozenset({"__doc__", "__annotations__", "__signature__", "co_firstlineno", "tb_lineno", "f_lineno"})
_ACCESSORS = ("operator.attrgetter", "operator.methodcaller")


@dataclass(frozen=True)
class Edges:
    """What a statement leads to.

    Attributes:
        targets: names and modules that it reads.
        imports: files of the project that it imports when it runs.
        outside: top-level modules outside the project that it imports when it runs.
        unresolved: (line, reason) for what is only known at run time.
        reads_source: it reads the text, docstrings or annotations of code.
        reads_subclasses: it asks a class for its subclasses.
    """

    targets: tuple[Target, ...]
    imports: tuple[str, ...]
    outside: tuple[str, ...]
    unresolved: tuple[tuple[int, str], ...]
    reads_source: bool
    reads_subclasses: bool


def read_edges(sources: Sources, module: Module, atom: Atom) -> Edges:
    """Return what a statement leads to; remembered for each statement."""
    key = ("edges", atom)
    found = sources.memo.get(key)
    if not isinstance(found, Edges):
        found = sources.memo[key] = _EdgeReader(sources, module, atom).read()
    return found


def run_imports(atom: Atom) -> list[Alias]:
    """Return which of a statement's imports may run when its module is imported."""
    return [*atom.reading.aliases, *(alias for alias, escapes in atom.reading.imports if escapes)]


class _EdgeReader:
    def __init__(self, sources: Sources, module: Module, atom: Atom) -> None:
        self.sources = sources
        self.module = module
        self.path = module.path
        self.reading = atom.reading
        self.targets: dict[Target, None] = {}
        self.imports: dict[str, None] = {}
        self.outside: dict[str, None] = {}
        self.unresolved: dict[tuple[int, str], None] = {}
        self.reads_source = False
        self.lost_star = self._find_lost_star()

    def read(self) -> Edges:
        for use in self.reading.uses:
            self._read_use(use)
        for alias, escapes in self.reading.imports:
            self._read_import(alias, escapes=escapes)
        for dynamic in self.reading.dynamic:
            if dynamic.receivers is None or not all(map(self._is_foreign, dynamic.receivers)):
                self._give_up(dynamic.line, f"getattr() {_BY_NAME}")
        for name, line in self.reading.attributes.items():
            if name in _UNKNOWN_ATTRIBUTES:
                self._give_up(line, f"{name} {_UNKNOWN_ATTRIBUTES[name]}")
            elif name in _SOURCE_NAMES:
                self._read_source(line, name)
        for text in self.reading.texts:
            self._read_text(text)
        return Edges(
            targets=tuple(self.targets),
            imports=tuple(self.imports),
            outside=tuple(self.outside),
            unresolved=tuple(self.unresolved),
            reads_source=self.reads_source,
            reads_subclasses="__subclasses__" in self.reading.attributes,
        )

    def _find_lost_star(self) -> str:
        """Return the module of a relative star import that leads nowhere, or ''."""
        for alias in self.module.stars:
            if alias.level and not self.sources.find(alias.module, alias.level, self.path):
                return "." * alias.level + alias.module
        return ""

    def _give_up(self, line: int, why: str) -> None:
        self.unresolved[line, why] = None

    def _read_source(self, line: int, name: str) -> None:
        self.reads_source = True
        self._give_up(line, f"{name} {READS_SOURCE}")

    def _read_use(self, use: Use) -> None:
        targets = self.sources.resolve(use, self.path)
        self.targets |= dict.fromkeys(targets)
        for target in targets:
            if isinstance(target, External):
                self._read_external(target.name, use)
        if use.alias is None and use.name not in self.module.bindings:
            if not targets and self.lost_star:
                self._give_up(use.line, f'"{use.name}" may come from "{self.lost_star}", which is not there')
            self._read_builtin(use)

    def _read_builtin(self, use: Use) -> None:
        name = use.name
        if name in ("__doc__", "__annotations__"):
            self._read_source(use.line, name)
        elif name == "__import__" and use.called and use.literal is not None:
            self._read_literal_import(use.literal)
        elif name in ("getattr", "hasattr") and use.called and use.arguments >= 2:
            return
        elif name in ("vars", "locals") and use.called and not use.arguments:
            if name == "vars":
                self._give_up(use.line, f"vars() {_BY_NAME}")
        elif name in _UNKNOWN_BUILTINS:
            self._give_up(use.line, f"{name} {_UNKNOWN_BUILTINS[name]}")

    def _read_external(self, name: str, use: Use) -> None:
        if name == "importlib.import_module" and use.called and use.literal is not None:
            self._read_literal_import(use.literal)
            return
        if name.startswith("builtins.") and name.count(".") == 1:
            plain = name.partition(".")[2]
            if plain not in _UNKNOWN_BUILTINS and plain not in ("vars", "locals"):
                return
        if name in _ACCESSORS and not (use.called and use.literal is not None):
            self._give_up(use.line, f"{name} {_BY_NAME}")
        if _has_prefix(name, _SOURCE_READERS):
            self._read_source(use.line, name)
        elif not _has_prefix(name, _KNOWN) and (found := _has_prefix(name, _UNKNOWN)):
            self._give_up(use.line, f"{name} {_UNKNOWN[found]}")

    def _read_literal_import(self, dotted: str) -> None:
        level = len(dotted) - len(dotted.lstrip("."))
        module = dotted.lstrip(".")
        self._read_import(Alias(module, "", level, "", module), escapes=True)

    def _read_import(self, alias: Alias, *, escapes: bool) -> None:
        self.imports |= dict.fromkeys(self.sources.imported_paths(alias, self.path))
        outside = self.sources.external_module(alias, self.path)
        if outside:
            self.outside[outside] = None
        if escapes:
            self.targets |= dict.fromkeys(self.sources.follow(alias, (), self.path))

    def _is_foreign(self, use: Use) -> bool:
        """Return whether what a name stands for comes from outside the project."""
        for target in self.sources.resolve(use, self.path):
            if isinstance(target, Whole):
                return False
            if isinstance(target, Defined):
                for atom in self.sources.atoms_of(target):
                    if target.name not in (alias.bound for alias in atom.reading.aliases):
                        return False
        return True

    def _read_text(self, text: str) -> None:
        """Follow a text that names a module or a file of the project: libraries import by such texts."""
        for stem in self._stems_of(text):
            self.targets[Whole(stem)] = None

    def _stems_of(self, text: str) -> Iterator[str]:
        if ".py" in text:
            for path in self.sources.files:
                if path.rpartition("/")[2] in text:
                    yield path.removesuffix(".py").removesuffix("/__init__")
            return
        parts = text.partition(":")[0].split(".")
        for count in range(len(parts), 0, -1):
            stems = self.sources.find(".".join(parts[:count]), 0, "")
            files = [stem for stem in stems if self.sources.path_of(stem)]
            if files:
                yield from files
                return


def _has_prefix(name: str, prefixes: frozenset[str] | dict[str, str] | tuple[str, ...]) -> str:
    """Return the leading part of a dotted name that is one of `prefixes`, or ''."""
    while name and name not in prefixes:
        name = name.rpartition(".")[0]
    return name
