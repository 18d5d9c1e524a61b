"""A closed, full or narrow output changes neither the work nor the exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from predboard.storage.inspection import inspect
from tests import toy

RULES = '[[rule]]\nmetric = "accuracy"\n{} = 0.0\n'
CLOSED = {
    "reader gone": "{} 2>&1 | true; exit ${{PIPESTATUS[0]}}",
    "stdout closed": "{} >&-",
    "all closed": "{} <&- >&- 2>&-",
    "disk full": "{} >/dev/full 2>&1",
    "ascii": "PYTHONIOENCODING=ascii {}",
}
WORK = "import time; from predboard.streams import protect_streams; protect_streams(); time.sleep(.05)"
SCRIPT = f"{WORK}; print('−3 ≥ é', flush=True); print(1); open('done', 'w').write('x'); raise SystemExit(3)"

posix = pytest.mark.skipif(os.name != "posix", reason="redirections of a shell")


def shell(command: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    env = {**os.environ, "PYTHONPATH": toy.PYTHONPATH, "PYTHONUNBUFFERED": "1"}
    return subprocess.run(["bash", "-c", command], cwd=cwd, env=env, capture_output=True, timeout=120, check=False)


@posix
@pytest.mark.parametrize("how", CLOSED)
def test_a_program_goes_on_whatever_happens_to_its_output(how: str, tmp_path: Path) -> None:
    done = shell(CLOSED[how].format(f'{sys.executable} -c "{SCRIPT}"'), tmp_path)
    assert (done.returncode, (tmp_path / "done").read_text(), done.stderr) == (3, "x", b"")
    assert done.stdout == (b"-3 >= \\xe9\n1\n" if how == "ascii" else b"")


@posix
def test_names_are_no_commands_of_the_terminal(tmp_path: Path) -> None:
    names = r"'\x1b[2Jcat', 'a\rgate: pass', '\x9b31m', 'gnp.\u202eexe', 'tab\there', '\rbar'"
    script = f"{WORK}; import sys; [print(x, file=f) for f in (sys.stdout, sys.stderr) for x in ({names})]"
    done = shell(f'{sys.executable} -c "{script}"', tmp_path)
    lines = [r"\x1b[2Jcat", r"a\rgate: pass", r"\x9b31m", r"gnp.\u202eexe", "tab\there", "\rbar", ""]
    assert done.stdout.decode() == done.stderr.decode() == "\n".join(lines)


@posix
def test_a_file_does_not_get_what_a_closed_stream_would(tmp_path: Path) -> None:
    script = f"{WORK}; import os; f = open('rows', 'wb'); f.write(b'rows'); f.flush(); os.write(2, b'from C')"
    shell(f'{sys.executable} -c "{script}" <&- >&- 2>&-', tmp_path)
    assert (tmp_path / "rows").read_bytes() == b"rows"


@posix
@pytest.mark.slow
@pytest.mark.parametrize("how", ["reader gone", "all closed", "disk full"])
def test_no_command_depends_on_its_output(how: str, tmp_path: Path) -> None:
    toy.pictures(tmp_path / "data")
    for name, limit in (("good", "min"), ("bad", "max")):
        (tmp_path / f"{name}.toml").write_text(RULES.format(limit))
    model = toy.model_file(tmp_path)
    for arguments, code in (
        (f"infer --data data --model {model} --out p/old", 0),
        (f"infer --data data --model {model} --out p/new --device cpu,cpu --shard-size 3", 0),
        ("visualize p/old p/new --panels glance", 0),
        ("compare p/old p/new", 0),
        ("gate p/old --rules good.toml", 0),
        ("gate p/old --rules bad.toml", 1),
        ("inspect p/old", 0),
        ("inspect nowhere", 2),
    ):
        done = shell(CLOSED[how].format(f"{sys.executable} -m predboard {arguments}"), tmp_path)
        assert done.returncode == code, (arguments, done)
        assert b"Traceback" not in done.stdout + done.stderr
    assert inspect(tmp_path / "p" / "old").complete
    assert inspect(tmp_path / "p" / "new").complete
    assert (tmp_path / "logs" / "new vs old" / "compare.json").is_file()


@posix
@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["metrics", "metrics --markdown"])
def test_what_a_program_reads_is_whole_or_an_error(arguments: str, tmp_path: Path) -> None:
    done = shell(f"{sys.executable} -m predboard {arguments} >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"predboard: cannot write to standard output: No space left on device;")
