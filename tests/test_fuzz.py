"""The fuzzer finds nothing in some seconds, and would find something."""

import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited by means of Linux")


def run(code, tmp_path):
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(FUZZ)!r}); {code}"]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)


def test_damaged_files_give_finite_numbers_or_errors_of_ours(tmp_path):
    command = [sys.executable, str(FUZZ / "fuzz.py"), "--seconds", "15", "--seed", "7"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stdout
    assert int(result.stdout.split()[0]) > 20


@pytest.mark.parametrize("error", ["ValueError('not ours')", "targets.Finding('NaN')", "MemoryError()"])
def test_what_is_not_an_error_of_ours_is_a_finding(tmp_path, error):
    (tmp_path / "damaged.csv").write_text("x")
    code = (
        "import fuzz, targets, pathlib\n"
        f"class Bad:\n    name = 'bad'\n    def check(self, path): raise {error}\n"
        "sys.exit(fuzz._fails(Bad(), pathlib.Path('damaged.csv'), 5, pathlib.Path('kept')))"
    )
    assert run(code.replace("import fuzz", "pass\nimport fuzz"), tmp_path).returncode == 1
    assert (tmp_path / "kept" / "5.csv").exists()
