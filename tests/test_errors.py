"""The tree of errors, and the message for a missing extra."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from mimo_mobile import errors
from mimo_mobile.errors import MimoMobileError, MissingDependencyError, require


def test_every_error_is_in_the_tree_of_the_docstring() -> None:
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, Exception)]
    assert errors.__doc__ is not None and len(classes) == 20
    for each in classes:
        assert issubclass(each, MimoMobileError) and each.__name__ in errors.__doc__


def test_a_missing_package_says_what_to_type() -> None:
    with pytest.raises(
        MissingDependencyError, match=r"^nosuch is not installed; type: pip install 'mimo-mobile\[gguf\]'$"
    ):
        require("nosuch.part", "gguf")


def test_a_package_that_fails_by_itself_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "present_but_broken.py").write_text("import absent_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="absent_dependency"):
        require("present_but_broken", "gguf")


@pytest.mark.parametrize(
    ("blocked", "extra", "call"),
    [
        ("llama_cpp", "gguf", "from mimo_mobile.runtime import load; load(sys.argv[1])"),
        ("onnxruntime", "onnx", "from mimo_mobile.runtime import load; load(sys.argv[2])"),
        ("huggingface_hub", "hub", "from mimo_mobile.hub import resolve; resolve('a/b')"),
        (
            "gguf",
            "gguf",
            "from mimo_mobile import *; convert_checkpoint('nano', sys.argv[1] + '.x', to='gguf')",
        ),
        (
            "onnx_ir",
            "onnx",
            "from mimo_mobile import *; convert_checkpoint('nano', sys.argv[1] + '.x', to='onnx')",
        ),
    ],
)
def test_each_extra_is_asked_for_by_name(
    blocked: str, extra: str, call: str, tiny_gguf: object, tiny_onnx: object
) -> None:
    hide = f"""if True:
        import importlib.abc, importlib.util, sys
        class Hide(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split('.')[0] == '{blocked}':
                    raise ModuleNotFoundError(f'No module named {{name!r}}', name='{blocked}')
        sys.meta_path.insert(0, Hide())
        {call}
    """
    command = [sys.executable, "-c", hide, str(tiny_gguf), str(tiny_onnx)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    last = result.stderr.strip().splitlines()[-1]
    assert "MissingDependencyError" in last and last.endswith(f"pip install 'mimo-mobile[{extra}]'"), result.stderr
