from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from treadle import hooks, plugins
from treadle.errors import ProjectError
from treadle.hooks import hook


def module_with(**functions: Any) -> ModuleType:
    module = ModuleType("outside")
    vars(module).update(functions)
    return module


def install(folder: Path, source: str, value: str = "outside_plugin") -> None:
    """Write a distribution with an entry point, as pip would leave it in a site folder."""
    (folder / "outside_plugin.py").write_text(source)
    info = folder / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[treadle]\noutside = {value}\n")


def error_text(plugin: ModuleType) -> str:
    with pytest.raises(ProjectError) as caught:
        plugins.Plugins((plugin,)).call("register_trainers", register=print)
    return str(caught.value)


def test_every_hook_has_one_sentence_and_named_arguments() -> None:
    for name, arguments in plugins.known_hooks().items():
        function = getattr(hooks, name)
        assert function.__doc__.count(".") == 1
        assert arguments
        assert "*" not in str(inspect.signature(function))


def test_call_reaches_every_plugin_in_order_with_the_arguments_it_names() -> None:
    seen: list[Any] = []

    @hook
    def register_trainers(register: Any) -> None:
        seen.append(register)

    first = module_with(register_trainers=register_trainers)

    def without_arguments() -> None:
        seen.append("none")

    setattr(without_arguments, hooks.MARK, True)
    second = module_with(register_trainers=without_arguments)
    plugins.Plugins((first, second)).call("register_trainers", register="given")
    assert seen == ["given", "none"]


def test_unmarked_functions_are_no_hooks() -> None:
    def register_trainers(whatever: int) -> None:
        raise AssertionError

    plugins.Plugins((module_with(register_trainers=register_trainers),)).call("register_trainers", register=1)


def test_unknown_hook_is_named_with_the_close_match() -> None:
    @hook
    def register_trainer(register: Any) -> None: ...

    assert error_text(module_with(register_trainer=register_trainer)) == (
        'error[TR510]: plugin "outside" implements hook "register_trainer", which does not exist\n'
        "  the hooks are register_trainers\n"
        "  did you mean: register_trainers\n"
        "  fix: rename the function, or take away its @hook"
    )


def test_unknown_argument_is_named() -> None:
    @hook
    def register_trainers(registar: Any) -> None: ...

    assert error_text(module_with(register_trainers=register_trainers)) == (
        'error[TR510]: plugin "outside": hook "register_trainers" has no argument "registar"\n'
        "  its arguments are register\n"
        "  did you mean: register\n"
        "  fix: name the arguments as the hook does; those that are not needed may be left out"
    )


def test_installed_plugin_is_found_and_imported_only_when_a_hook_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(
        tmp_path,
        "from treadle.hooks import hook\n@hook\ndef register_trainers(register):\n    register('mine')\n",
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = plugins.find()
    assert "outside" in [point.name for point in found.installed]
    assert "outside_plugin" not in sys.modules
    names: list[str] = []
    chosen = plugins.Plugins((), tuple(p for p in found.installed if p.name == "outside"))
    chosen.call("register_trainers", register=names.append)
    assert names == ["mine"]
    del sys.modules["outside_plugin"]


def test_plugin_that_cannot_be_imported_is_named_with_its_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, "raise RuntimeError('no licence')\n")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = plugins.Plugins((), tuple(p for p in plugins.find().installed if p.name == "outside"))
    with pytest.raises(ProjectError) as caught:
        chosen.call("register_trainers", register=print)
    assert str(caught.value) == (
        'error[TR510]: plugin "outside" of outside 1.0 cannot be loaded\n'
        "  RuntimeError: no licence\n"
        "  fix: repair or uninstall the package that brings it"
    )


def test_plugin_that_is_no_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "thing = 3\n", "outside_plugin:thing")
    monkeypatch.syspath_prepend(tmp_path)
    chosen = plugins.Plugins((), tuple(p for p in plugins.find().installed if p.name == "outside"))
    with pytest.raises(ProjectError) as caught:
        chosen.call("register_trainers", register=print)
    assert str(caught.value) == (
        'error[TR510]: plugin "outside" is no module\n'
        '  its entry point names "outside_plugin:thing", a int\n'
        "  fix: let the entry point name the module that holds the hooks"
    )
    del sys.modules["outside_plugin"]


def test_core_plugins_import_nothing_heavy() -> None:
    code = "import sys, treadle.plugins as p; p.find(); print([m for m in ('numpy', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
