"""Models and texts of the Hugging Face hub: the files to download, and errors in one line."""

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from fnmatch import filter as matching
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, errors, snapshot_download

from minislm.pretrained.families import describe
from minislm.runtime.errors import UserError

_TOKENIZER_FILES = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt",
                    "special_tokens_map.json"]  # fmt: skip
_CONFIG_FILES = ["config.json", "generation_config.json"]
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that a repository has is used
# Owners whose model cards name another repository's tokenizer: it is used where theirs is missing.
_TOKENIZER_OF = {"roneneldan": "EleutherAI/gpt-neo-125M"}
# The text of a data set that has several: here the stories by GPT-4 alone.
_TEXT_OF = {"roneneldan/TinyStories": "TinyStoriesV2-GPT4-train.txt"}
_DATA_SET = r"(\w[\w.-]*/[\w.-]+)(?:@([^/]+))?(?:/(.+))?"  # owner/name, revision, file
_USUAL_TEXTS = ["*train*.txt", "*train*.parquet", "*validation*.txt", "*validation*.parquet"]
_VALIDATION = ("validation", "valid", "val", "test")  # replaces "train" in a file name

_Select = Callable[[str, set[str]], list[str]]  # (repository, its files) -> the files to download
# HTTPError: connections and timeouts (OSErrors before huggingface_hub 1.0). RuntimeError: Xet.
_FAILURES = (OSError, errors.HTTPError, RuntimeError)
# An exception type, or HTTP statuses and errno values -> the message; the first match is used.
_MESSAGES = (
    (errors.HFValidationError, "{repo!r} is not a hub id: write owner/name"),
    (errors.OfflineModeIsEnabled,
     "{repo} ({revision}) is not complete in the cache {cache}: run once without HF_HUB_OFFLINE"),
    (errors.GatedRepoError, "{repo} is gated: accept its terms at {page}, then {login}"),
    (errors.RepositoryNotFoundError,
     "the hub has no {kind} {repo}: check the spelling (one is TinyStories-Instuct-1Layer-21M); "
     "if it is private, {login}"),
    (errors.RevisionNotFoundError, "{repo} has no revision {revision!r}: see those at {page}"),
    ((401, 403), "no access to {repo} (HTTP {code}): {login}, with a token that may read it"),
    (errors.EntryNotFoundError, "{repo} lacks a file that it lists: give a revision ({error})"),
    ((errno.ENOSPC, errno.EDQUOT), "no space for {repo} in {cache}: free some, or set HF_HOME"),
    ((errno.EACCES, errno.EROFS, errno.EPERM), "cannot write the cache {cache}: set HF_HOME"),
    (Exception, "cannot download {repo}: check the connection and run again ({error})"),
)  # fmt: skip


def _message(error: BaseException, repo: str, revision: str | None, kind: str) -> str:
    """What failed, and what to do."""
    while isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
        error = error.__cause__  # the reason, which huggingface_hub wraps into "not in the cache"
    response, code = getattr(error, "response", None), getattr(error, "errno", None)
    code = code if response is None else response.status_code
    lines = (line for case, line in _MESSAGES
             if (code in case if isinstance(case, tuple) else isinstance(error, case)))  # fmt: skip
    page = f"{constants.ENDPOINT}/{'datasets/' if kind == 'dataset' else ''}{repo}"
    login = "log in with `hf auth login` or set HF_TOKEN"
    return next(lines).format(
        repo=repo, revision=revision or "main", kind=kind, page=page, code=code, login=login,
        cache=constants.HF_HUB_CACHE, error=error,
    )  # fmt: skip


def fetch(repo_id: str, revision: str | None = None) -> tuple[Path, Path]:
    """The cached folder of a model, and that of its tokenizer: the same, or of the repository which
    the model card names. revision: a branch, a tag or a commit. UserError: a failed download."""
    folder = _snapshot(repo_id, revision, _model_files, _TOKENIZER_FILES)
    if _has_tokenizer(_names(folder)):
        return folder, folder
    other = _TOKENIZER_OF[repo_id.split("/")[0]]
    return folder, _snapshot(other, None, lambda *_: _TOKENIZER_FILES, _TOKENIZER_FILES)


def find_text(source: str) -> tuple[str, str | None]:
    """The files of a text, and those of its validation text where the hub has one: two paths or
    patterns, as corpus/read.py takes them. A `source` on this machine is returned as it is. Else it
    is owner/name of a data set with one training text, or owner/name/FILE (of shards a pattern),
    with @REVISION after the name if need be. UserError: as `fetch`; not exactly one text."""
    named, path = re.fullmatch(_DATA_SET, source), Path(source)
    repo_id, revision, file = named.groups() if named else ("", None, None)
    misspelt = os.path.isdir(path.parent) and path.parent != Path()  # a file of this machine
    local = os.path.exists(source) or misspelt or not named
    if local or (file is None and path.suffix in (".txt", ".parquet")):
        return source, None

    def select(repo_id: str, names: set[str]) -> list[str]:
        return [n for p in _text_patterns(repo_id, file, names) if p for n in matching(names, p)]

    text = file or _TEXT_OF.get(repo_id)
    expected = [text, *_validation_patterns(text)] if text else _USUAL_TEXTS
    try:
        folder = _snapshot(repo_id, revision, select, expected, "dataset")
    except UserError as error:
        raise UserError(f"there is no {source} here, and on the hub: {error}") from error
    train, valid = _text_patterns(repo_id, file, _names(folder))
    return str(folder / train), valid and str(folder / valid)


def _text_patterns(repo_id: str, file: str | None, names: set[str]) -> tuple[str, str | None]:
    """The patterns of a data set's training text and of its validation text."""
    texts = {name for name in names if name.endswith((".txt", ".parquet"))}
    train = {_all_shards(name) for name in texts if "train" in PurePosixPath(name).name}
    text = file or _TEXT_OF.get(repo_id) or (train.pop() if len(train) == 1 else None)
    if text is None or not matching(texts, text):
        listed = sorted({_all_shards(name) for name in texts})[:8] or ["no .txt or .parquet"]
        problem = f"has no {text}" if text else "does not have exactly one training text"
        raise UserError(f"{repo_id} {problem}; give {repo_id}/FILE, it has: {', '.join(listed)}")
    valid = (each for each in _validation_patterns(text) if matching(texts, each))
    return text, next(valid, None)


def _validation_patterns(text: str) -> list[str]:
    """The possible names of the validation text of a training text."""
    before, train, after = _all_shards(text).rpartition("train")
    return [f"{before}{word}{after}" for word in _VALIDATION if train]


def _all_shards(name: str) -> str:
    """The pattern of all shards of a file such as data/train-00000-of-00004-HASH.parquet."""
    return re.sub(r"-\d+-of-\d+[^/]*(?=\.)", "-*", name)


def _snapshot(
    repo_id: str, revision: str | None, select: _Select, expected: list[str], kind: str = "model"
) -> Path:
    """The cached folder of a revision with the files that `select` returns, downloaded if need be.
    Without a connection `select` is given the files of the cache. Those of the repository that
    match `expected` must be there: huggingface_hub 2 raises an error if one is not."""
    options = dict(revision=revision, repo_type=kind)
    try:
        try:
            info = HfApi().repo_info(repo_id, timeout=constants.HF_HUB_ETAG_TIMEOUT, **options)
        except errors.RevisionNotFoundError:
            raise
        except _FAILURES:
            with suppress(errors.LocalEntryNotFoundError, UserError):  # incomplete in the cache
                cached = dict(allow_patterns=expected, local_files_only=True)
                folder = Path(snapshot_download(repo_id, **options, **cached))
                select(repo_id, _names(folder))
                return folder
            raise
        files = select(repo_id, {file.rfilename for file in info.siblings or ()})
        # By the name of the revision, not by info.sha: only then can it be found offline.
        return Path(snapshot_download(repo_id, allow_patterns=files, **options))
    except (errors.HFValidationError, *_FAILURES) as error:
        raise UserError(_message(error, repo_id, revision, kind)) from error


def _names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def _model_files(repo_id: str, names: set[str]) -> list[str]:
    """The files of a model to download; raises UserError if the repository lacks some."""
    weights = _weight_files(names)
    if not weights:
        missing = f"{' or '.join(_WEIGHTS)}: {describe(map(Path, names), 'give another revision')}"
    elif "config.json" not in names:
        missing = "config.json: it is not a model of transformers; give another"
    elif not _has_tokenizer(names) and repo_id.split("/")[0] not in _TOKENIZER_OF:
        missing = "tokenizer.json, nor vocab.json and merges.txt: give a local folder with them"
    else:
        return [name for name in _CONFIG_FILES + _TOKENIZER_FILES if name in names] + weights
    raise UserError(f"{repo_id} has no {missing}")


def _weight_files(names: set[str]) -> list[str]:
    """The files of the first complete format; the names of shards have their number."""
    for whole in _WEIGHTS:
        if whole in names:
            return [whole]
        stem, suffix = whole.split(".")
        shards = [n for n in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", n)]
        complete = any(int(re.search(r"of-(\d+)", n)[1]) == len(shards) for n in shards)
        if complete and f"{whole}.index.json" in names:
            return [f"{whole}.index.json", *sorted(shards)]
    return []


def _has_tokenizer(names: set[str]) -> bool:
    return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names
