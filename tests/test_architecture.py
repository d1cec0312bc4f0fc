"""The rules of the package: one-way imports, sizes, words, and what the README says."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest
from helpers import ROOT

PACKAGE = ROOT / "minislm"
SCRIPTS = [ROOT / name for name in ("train.py", "sample.py", "eval.py")]
README = ROOT / "README.md"

# In reading order: a core file imports only runtime and the core files before it.
CORE = (
    "config", "tasks", "tokenizer", "dataset", "kv_cache", "model", "sampling", "sampler",
    "evaluation", "optimizer", "checkpoint", "training",
)  # fmt: skip
# What the files of a folder may import besides their own folder, the core and runtime.
FOLDERS = {
    "runtime": set(),
    "fast": set(),
    "stories": set(),
    "corpus": set(),
    "pretrained": set(),
    "reporting": set(),
    "scoring": {"fast", "reporting", "stories"},
    "interpret": {"stories"},
    "studies": {"corpus", "fast", "pretrained", "reporting", "scoring", "stories"},
    "bench": {"fast", "pretrained", "reporting"},
    "cli": None,  # all of them
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))
FILES = [path for path in MODULES if path.name != "__init__.py"]
LONG_FILES = {"plots.py", "number_plots.py"}  # of stories/: the texts of the stories


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def imports(path: Path) -> set[tuple[str, str]]:
    """The (folder, module) pairs of this package that a file imports; the core's folder is ""."""
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name_of(path)}: write the whole name of a module"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    found = set()
    for name in names:
        _, *parts = [*name.split("."), "", ""]
        if name.split(".")[0] == "minislm" and parts[0]:
            folder = (PACKAGE / parts[0]).is_dir()
            found.add((parts[0], parts[1]) if folder else ("", parts[0]))
    return found


# --- imports --------------------------------------------------------------------------------------


def wrong_imports(path: Path) -> list[str]:
    """The imports of a file that the rules do not allow."""
    folder = path.parent.name if path.parent != PACKAGE else ""
    wrong = []
    for other, module in imports(path):
        if folder == "":
            above = CORE[: CORE.index(path.stem)]
            allowed = other == "runtime" or (other == "" and module in above)
        elif FOLDERS[folder] is None:
            allowed = True
        else:
            of_core = other == "" and folder != "runtime"
            allowed = of_core or other in FOLDERS[folder] | {folder, "runtime"}
        if not allowed:
            wrong.append(f"{other or 'core'}: {module}")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_go_one_way(path):
    assert not wrong_imports(path)


def test_folders_have_no_import_circle():
    order, left = [], dict(FOLDERS)
    del left["cli"]
    while left:
        free = [name for name, needs in left.items() if not needs - set(order)]
        assert free, f"a circle among {sorted(left)}"
        order += free
        left = {name: needs for name, needs in left.items() if name not in free}


def test_the_list_of_allowed_imports_has_no_more_than_is_used():
    for folder, allowed in FOLDERS.items():
        used = {other for path in (PACKAGE / folder).glob("*.py") for other, _ in imports(path)}
        assert allowed is None or allowed <= used, folder


def test_all_files_are_in_the_core_or_in_a_folder():
    assert {path.stem for path in PACKAGE.glob("*.py")} == {*CORE, "__init__"}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(FOLDERS)
    for folder in folders:
        assert (PACKAGE / folder / "__init__.py").read_bytes() == b"", folder
        assert (PACKAGE / folder / "README.md").is_file(), folder


def run_python(code: str, *flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True,
                          cwd=ROOT)  # fmt: skip


@pytest.mark.parametrize("script", SCRIPTS, ids=name_of)
def test_help_does_not_import_torch(script):
    done = run_python(
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_path({str(script)!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr
    assert "--seed" in done.stdout or script.stem == "eval"
    assert "--json" in done.stdout


def test_sampling_a_text_imports_neither_training_nor_corpus_nor_stories(tiny_run):
    flags = ["--model", str(tiny_run), "--prompt", "Once", "--max-new-tokens", "4"]
    done = run_python(
        f"import runpy, sys; sys.argv = ['sample.py', *{flags!r}]\n"
        f"try: runpy.run_path({str(ROOT / 'sample.py')!r}, run_name='__main__')\n"
        "finally: print(*(n for n in sys.modules if n.startswith('minislm')), file=sys.stderr)"
    )
    assert done.returncode == 0 and done.stdout.startswith("Once"), done.stderr
    loaded = {name.split(".")[1] for name in done.stderr.split() if name.startswith("minislm.")}
    assert {"sampler", "model", "fast", "pretrained"} <= loaded
    others = {"training", "optimizer", "dataset", "evaluation", "corpus", "stories", "studies",
              "scoring", "interpret", "reporting"}  # fmt: skip
    assert not loaded & others


# --- sizes ----------------------------------------------------------------------------------------


def test_the_core_is_twelve_files_of_at_most_2200_lines():
    assert len(CORE) == 12
    counts = {path.name: len(lines(path)) for path in PACKAGE.glob("*.py")}
    assert sum(counts.values()) <= 2_200, counts


def test_the_package_is_at_most_12000_lines():
    assert sum(len(lines(path)) for path in MODULES) <= 12_000


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name_of)
def test_files_lines_and_functions_are_short(path):
    text = lines(path)
    limit = 79 if path in SCRIPTS else 400
    assert len(text) <= limit or (path.parent.name == "stories" and path.name in LONG_FILES)
    for number, line in enumerate(text, 1):
        assert len(line) <= 100, f"line {number}"
    for node in ast.walk(ast.parse("\n".join(text))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 60, node.name


def test_the_readmes_are_short():
    assert len(lines(README)) <= 150 and len(README.read_text(encoding="utf-8").split()) <= 2_000
    for folder in FOLDERS:
        assert len(lines(PACKAGE / folder / "README.md")) <= 80, folder
    assert len(lines(ROOT / "CONTRIBUTING.md")) <= 60


def flags_of(script: Path) -> set[str]:
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout))


@pytest.fixture(scope="module")
def flags() -> dict[str, set[str]]:
    return {script.name: flags_of(script) for script in SCRIPTS}


def test_there_are_at_most_85_flags(flags):
    names = {flag for found in flags.values() for flag in found}
    assert len({name for name in names if not name.startswith("--no-")}) <= 85


# --- words ----------------------------------------------------------------------------------------

# Words that a textbook's index does not have, by the term to use instead (regular expressions).
# Left out are those with another, usual meaning: floor (of a number), subject (of a sentence),
# choices (of argparse), shared (memory), captured (groups), collect (garbage), letters.
WORDS = {
    "module, package": r"rooms?|houses?",
    "option, hyperparameter": r"knobs?",
    "initialised": r"born",
    "MLP, up-projection": r"thinks?|widen\w*|bends?",
    "previous-token head": r"looking back",
    "causal mask": r"plain triangle",
    "recomputed": r"made anew",
    "attention mask": r"who reads whom",
    "worker threads": r"lanes?",
    "micro-batches, blocks": r"pieces?",
    "stalled, preempted": r"held up",
    "traced": r"recorded (?:step|run|engine|graph)s?|recordings",
    "CUDA graph": r"captured (?:step|graph)s?",
    "prepacked, layout, transposed": r"laid out|lay out|turned",
    "argmax or greedy": r"likeliest\w*",
    "cumulative probability": r"mass",
    "cache positions": r"slots?",
    "sampling, sample": r"draws?|drawn|choose|chooses",
    "prefill, decode, compact": r"admit\w*|settles?",
    "warmup-stable-decay": r"trapezoid\w*",
    "validation subset": r"glances?",
    "asynchronous loss read": r"unread losses|late losses",
    "process group, is_main": r"teams?|who leads",
    "isolated process": r"apart",
    "training throughput": r"paces?",
    "counts": r"tally|tallies|tallied",
    "corrupted, perturbed": r"spoilt|spoils?",
    "continues, resumes": r"goes on|go on|gone on|going on",
    "compared with": r"held against",
    "narrator, StoryState": r"tellers?|Tale",
    "reported, message, log": r"told|tells?|says?|said",
    "evaluated, model variants": r"asked|asks?",
    "left by an interrupted run": r"a killed one left",
    "data scaling": r"amounts",
}
FORBIDDEN = {instead: re.compile(rf"\b(?:{word})\b") for instead, word in WORDS.items()}


def words_in(path: Path) -> list[tuple[int, str]]:
    """The lines of a file that are about code. Of stories/ and of tests these are names, comments
    and docstrings, because their strings have texts of stories."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        blocks = r"```.*?```|`[^`\n]*`|\n> [^\n]*"  # code, and texts that a model wrote
        text = re.sub(blocks, lambda match: "\n" * match[0].count("\n"), text, flags=re.S)
    if path.suffix != ".py" or not {"stories", "tests"} & set(path.parts):
        return list(enumerate(text.splitlines(), 1))
    found, before = [], tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        starts = before in (tokenize.NEWLINE, tokenize.INDENT)
        docstring = token.type == tokenize.STRING and starts
        if docstring or token.type in (tokenize.NAME, tokenize.COMMENT):
            found += [(token.start[0] + n, line) for n, line in enumerate(token.string.split("\n"))]
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
    return found


# Names in the story generator for what a person in a story does.
IN_STORIES = {"say", "asks", "house", "houses", "room", "pieces", "admitted"}


def forbidden_words(path: Path) -> list[str]:
    allowed = IN_STORIES if "stories" in path.parts else set()
    found = []
    for number, line in words_in(path):
        plain = re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", line)  # the words of a name
        for instead, pattern in FORBIDDEN.items():
            words = [match[0] for match in pattern.finditer(plain) if match[0] not in allowed]
            found += [f"line {number}: {word!r}; better: {instead}" for word in words]
    return found


TEXTS = [
    *FILES, *SCRIPTS, *ROOT.glob("*.md"), *PACKAGE.rglob("*.md"), *(ROOT / "data").glob("*.md"),
    *(ROOT / "tests").rglob("*.py"), *PACKAGE.rglob("*.js"), *PACKAGE.rglob("*.html"),
]  # fmt: skip


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_the_words_are_those_of_the_field(path):
    if path != Path(__file__):
        assert not forbidden_words(path)


# --- safety and documents -------------------------------------------------------------------------


@pytest.mark.parametrize("path", MODULES + SCRIPTS, ids=name_of)
def test_nothing_unpickles_freely(path):
    text = path.read_text(encoding="utf-8")
    for call in re.findall(r"torch\.load\([^)]*\)", text):
        assert "weights_only=True" in call
    assert "pickle.load" not in text and not re.search(r"(?<![.\w])(eval|exec)\(", text)


def documents() -> list[Path]:
    return [*ROOT.glob("*.md"), *PACKAGE.rglob("*.md"), *(ROOT / "data").glob("*.md")]


def test_the_documents_use_only_flags_that_exist(flags):
    commands = 0
    for path in documents():
        for script, line in re.findall(
            r"python (train|sample|eval)\.py([^\n`]*)", path.read_text(encoding="utf-8")
        ):
            commands += 1
            for flag in re.findall(r"(?<= )--[a-z-]+", line):
                assert flag in flags[f"{script}.py"], f"{name_of(path)}: {flag}"
    assert commands > 10


def test_the_documents_name_only_files_that_exist():
    for path in documents():
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="utf-8")):
            assert (path.parent / target).exists(), f"{name_of(path)}: {target}"


def test_the_guided_reading_and_the_readme_name_every_core_file_and_folder():
    for path in (README, PACKAGE / "README.md"):
        text = path.read_text(encoding="utf-8")
        for name in CORE:
            assert f"{name}.py" in text, f"{name_of(path)}: {name}.py"
    for folder in FOLDERS:
        assert f"{folder}/" in README.read_text(encoding="utf-8"), folder


def test_the_two_commands_of_the_readme_are_the_ones_ci_runs():
    text = README.read_text(encoding="utf-8")
    assert "pip install -e . && python train.py" in text
    assert "pip install -e '.[test]' && pytest" in text
    assert "pip install -e '.[test]' && pytest" in (ROOT / ".ci" / "run").read_text()
