"""Standard streams that are closed, full, of another encoding, or a pipe whose reader has ended."""

import os
import subprocess
import sys

import pytest
from helpers import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a shell redirects the streams")
PRINT = "print('caf\\u00e9 \\U0001f98a')"


def script(body: str, redirect: str = "", **variables: str) -> subprocess.CompletedProcess:
    """Outcome of a script with this body, its streams redirected by a shell."""
    lines = ["from minislm.runtime.errors import UserError, log, run_script", "def main():"]
    lines += [f"    {line}" for line in body.split("\n")] + ["run_script(main)"]
    shell = ["bash", "-c", f'exec "$0" -c "$1" {redirect}', sys.executable, "\n".join(lines)]
    return subprocess.run(shell, capture_output=True, cwd=ROOT, env=os.environ | variables)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "cp1252:strict", "latin-1", "utf-8"])
def test_any_text_can_be_printed_in_any_encoding(encoding):
    done = script(PRINT + "; log('\\U0001f98a')", PYTHONIOENCODING=encoding)
    assert done.returncode == 0 and b"Traceback" not in done.stderr
    name = encoding.split(":")[0]
    assert done.stdout.decode(name) == "café 🦊\n".encode(name, "replace").decode(name)


@pytest.mark.parametrize("count", [1, 100_000])  # fewer and more characters than a buffer holds
@pytest.mark.parametrize("redirect", [">&-", ">/dev/full", ">&- <&-"])
def test_a_result_that_cannot_be_printed_is_one_line(redirect, count):
    if "full" in redirect and not os.path.exists("/dev/full"):
        pytest.skip("no such device")
    done = script(f"print({count} * 'x')", redirect)
    assert done.returncode == 2
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("error: cannot print: ")
    assert script("pass", redirect).returncode == 0  # nothing to print


@pytest.mark.parametrize("redirect", ["2>&-", "2>/dev/full", "<&- 2>&-"])
def test_messages_that_cannot_be_printed_end_nothing(redirect, tmp_path):
    done = script(f"log('x'); log('y'); {PRINT}; open('{tmp_path}/a', 'w')", redirect)
    assert (done.returncode, done.stdout) == (0, "café 🦊\n".encode()) and (tmp_path / "a").exists()


def test_no_file_gets_the_number_of_a_closed_stream(tmp_path):
    number = tmp_path / "number"
    body = f"file = open('{number}', 'w'); file.write(str(file.fileno())); file.close()"
    assert script(body, "<&- >&- 2>&-").returncode == 0
    assert int(number.read_text()) > 2


def test_readers_that_have_ended_end_nothing(tmp_path):
    body = f"for n in range(9999): log(9 * 'x')\nopen('{tmp_path}/a', 'w')\nprint('y')"
    done = script(f"input()\n{body}", "< <(sleep 0.2; echo) > >(exec >&-) 2> >(exec >&-)")
    assert done.returncode == 0 and (tmp_path / "a").exists()


@pytest.mark.parametrize(
    "end", ["raise SystemExit", "raise UserError('no')", "raise KeyboardInterrupt(15)"]
)
def test_an_exit_code_is_kept_where_the_reader_has_ended(end):
    done = script(f"input()\nprint('x')\n{end}", "< <(sleep 0.2; echo) > >(exec >&-)")
    assert done.returncode == (0 if "System" in end else 2 if "User" in end else 128 + 15)
    assert b"Traceback" not in done.stderr and b"ignored" not in done.stderr


def test_another_error_of_the_system_keeps_its_traceback():
    done = script("print('x')\nraise OSError(5, 'Input/output error')")
    assert done.returncode == 1 and b"Traceback" in done.stderr and b"cannot" not in done.stderr
