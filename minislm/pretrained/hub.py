"""Models and texts of the Hugging Face hub: only the files read here, into the hub's own cache.

`huggingface_hub` does the work: cache, retries, revisions, progress, HF_HUB_OFFLINE, HF_TOKEN and
HF_ENDPOINT are as it documents them. This room chooses the files and tells what went wrong.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from fnmatch import filter as matching
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from minislm.runtime.errors import UserError

_TOKENIZER_FILES = [
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
]
_CONFIG_FILES = ["config.json", "generation_config.json"]
# The first format that a repository has is taken; one in shards has an index of this name.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Owners whose model cards name another repository's tokenizer: it is used where theirs is missing.
_TOKENIZER_OF = {"roneneldan": "EleutherAI/gpt-neo-125M"}
# The text that a data set stands for where it has several: here the stories by GPT-4 alone.
_TEXT_OF = {"roneneldan/TinyStories": "TinyStoriesV2-GPT4-train.txt"}
_DATA_SET = r"(\w[\w.-]*/[\w.-]+)(?:@([^/]+))?(?:/(.+))?"  # owner/name, revision, file
_USUAL = ["*train*.txt", "*train*.parquet", "*validation*.txt", "*validation*.parquet"]
_VALIDATION = ("validation", "valid", "val", "test")  # what stands there in the place of "train"

# HTTPError covers connections and timeouts, which are OSErrors only before huggingface_hub 1.0;
# the Xet client raises RuntimeError.
_FAILURES = (OSError, HTTPError, RuntimeError)
_Choice = Callable[[str, set[str]], list[str]]  # (repository, its files) -> the files to fetch
_LOGIN = "log in with `hf auth login` or set HF_TOKEN"


def fetch(repo_id: str, revision: str | None = None) -> Path:
    """Download what `load` reads of a model on the hub; what the cache has is not sent again.

    That is the configuration, the tokenizer, and the weights in one format: safetensors, else
    pytorch_model.bin, whole or in shards. Without a connection the cache answers.

    Args:
        repo_id: the model, as in "roneneldan/TinyStories-33M".
        revision: a branch, a tag or a commit; None is the main branch.

    Returns:
        The folder of that revision in the cache. For the tokenizer ask `tokenizer_folder`.

    Raises:
        UserError: no such model or revision, no right to read it, files missing, no connection
            and not in the cache, or no space; one line that says what to do.
    """
    return _snapshot(repo_id, revision, _model_files)


def tokenizer_folder(repo_id: str, folder: Path) -> Path:
    """Where the tokenizer of a fetched model is: `folder`, or the repository its card points to.

    Raises:
        UserError: as `fetch`.
    """
    if _has_tokenizer({path.name for path in folder.iterdir()}):
        return folder
    return _snapshot(_TOKENIZER_OF[repo_id.split("/")[0]], None, _tokenizer_files)


def find_text(source: str) -> tuple[str, str | None]:
    """Where a text lies, and the validation text that belongs to it, if the hub has one.

    What is on this machine is taken as it is. Else it is of the hub, in the words of its hf://
    paths: `owner/name` of a data set that has one training text, `owner/name/FILE` (a pattern
    where it is in pieces: data/train-*.parquet), with `@REVISION` behind the name if need be. The
    file that is called the same, but for "valid" instead of "train", is fetched with it.

    Returns:
        A path or pattern of files each, as `reading.source_files` takes them.

    Raises:
        UserError: as `fetch`; the data set has no such text, or several and none was named.
    """
    named = re.fullmatch(_DATA_SET, source)
    here = Path(source)
    beside = os.path.isdir(here.parent) and here.parent != Path()  # a misspelt file of ours
    if os.path.exists(source) or not named or beside:
        return source, None
    repo_id, revision, file = named.groups()
    if file is None and here.suffix in (".txt", ".parquet"):
        return source, None

    def choose(repo_id: str, names: set[str]) -> list[str]:
        return [n for p in _text_patterns(repo_id, file, names) if p for n in matching(names, p)]

    wanted = file or _TEXT_OF.get(repo_id)
    asked = [wanted, *_validation_patterns(wanted)] if wanted else _USUAL
    try:
        folder = _snapshot(repo_id, revision, choose, asked, "dataset")
    except UserError as error:
        raise UserError(f"there is no {source} here, and on the hub: {error}") from error
    train, valid = _text_patterns(repo_id, file, _names(folder))
    return str(folder / train), valid and str(folder / valid)


def _text_patterns(repo_id: str, file: str | None, names: set[str]) -> tuple[str, str | None]:
    """The patterns of a data set's training text and of its validation text."""
    texts = {name for name in names if name.endswith((".txt", ".parquet"))}
    wanted = file or _TEXT_OF.get(repo_id)
    train = {_pieces(name) for name in texts if "train" in PurePosixPath(name).name}
    if wanted is None and len(train) == 1:
        wanted = train.pop()
    if wanted is None or not matching(texts, wanted):
        listed = ", ".join(sorted({_pieces(name) for name in texts})[:8]) or "no .txt or .parquet"
        what = f"has no {wanted}" if wanted else "has not one training text"
        raise UserError(f"{repo_id} {what}; give {repo_id}/FILE, it has: {listed}")
    valid = (each for each in _validation_patterns(wanted) if matching(texts, each))
    return wanted, next(valid, None)


def _validation_patterns(train: str) -> list[str]:
    """How the validation text beside a training text may be called."""
    before, train, after = _pieces(train).rpartition("train")
    return [f"{before}{word}{after}" for word in _VALIDATION if train]


def _pieces(name: str) -> str:
    """The pattern of all pieces of a file that is numbered data/train-00000-of-00004-HASH."""
    return re.sub(r"-\d+-of-\d+[^/]*(?=\.)", "-*", name)


def _snapshot(
    repo_id: str,
    revision: str | None,
    choose: _Choice,
    asked: list[str] = _TOKENIZER_FILES,
    kind: str = "model",
) -> Path:
    """The cached folder of a revision with the files that `choose(repo_id, all names)` takes.

    Without a connection `choose` sees only what the cache has; a file that the repository is known
    to have and that matches `asked` must be there.
    """
    try:
        try:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            info = HfApi().repo_info(repo_id, revision=revision, repo_type=kind, timeout=timeout)
        except RevisionNotFoundError:
            raise
        except _FAILURES:
            folder = _cached(repo_id, revision, choose, asked, kind)
            if folder is None:
                raise
            return folder
        wanted = choose(repo_id, {file.rfilename for file in info.siblings or ()})
        # By the name of the revision, not by info.sha: only so does the cache know it offline.
        of_it = dict(revision=revision, repo_type=kind, allow_patterns=wanted)
        return Path(snapshot_download(repo_id, **of_it))
    except (HFValidationError, *_FAILURES) as error:
        raise UserError(_explain(error, repo_id, revision, kind)) from error


def _cached(
    repo_id: str, revision: str | None, choose: _Choice, asked: list[str], kind: str
) -> Path | None:
    """The folder as the cache has it, or None when a part is missing (a download was killed)."""
    try:
        # The patterns matter since huggingface_hub 2: it refuses where one that the repository
        # has was not fetched. `choose` sees to the rest, which only the folder tells.
        of_it = dict(revision=revision, repo_type=kind, allow_patterns=asked)
        folder = Path(snapshot_download(repo_id, local_files_only=True, **of_it))
        choose(repo_id, _names(folder))
    except (LocalEntryNotFoundError, UserError):
        return None
    return folder


def _names(folder: Path) -> set[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix() for path in found}


def _model_files(repo_id: str, names: set[str]) -> list[str]:
    """The files of a model repository to fetch; raises UserError if it cannot make a model."""
    if "config.json" not in names:
        raise UserError(
            f"{repo_id} has no config.json: it is no model of transformers' format; give another"
        )
    weights = _weight_files(names)
    if not weights:
        raise UserError(
            f"{repo_id} has no {' or '.join(_WEIGHTS)}, whole or in shards: "
            "give another revision or model"
        )
    if not _has_tokenizer(names) and repo_id.split("/")[0] not in _TOKENIZER_OF:
        raise UserError(
            f"{repo_id} has no tokenizer.json, nor vocab.json and merges.txt: "
            "put one beside the model in a local folder and give that folder"
        )
    return _present(_CONFIG_FILES + _TOKENIZER_FILES, names) + weights


def _tokenizer_files(repo_id: str, names: set[str]) -> list[str]:
    if not _has_tokenizer(names):
        raise UserError(f"{repo_id} has no tokenizer: give a local folder with model and tokenizer")
    return _present(_TOKENIZER_FILES, names)


def _weight_files(names: set[str]) -> list[str]:
    """The files of the first format that is whole: a set of shards names its own size."""
    for whole in _WEIGHTS:
        if whole in names:
            return [whole]
        index = f"{whole}.index.json"
        if index in names:
            stem, suffix = whole.split(".")
            shards = [n for n in names if re.fullmatch(rf"{stem}-\d+-of-\d+\.{suffix}", n)]
            if any(int(re.search(r"of-(\d+)", n)[1]) == len(shards) for n in shards):
                return [index, *sorted(shards)]
    return []


def _has_tokenizer(names: set[str]) -> bool:
    return "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names


def _present(wanted: list[str], names: set[str]) -> list[str]:
    return [name for name in wanted if name in names]


def _explain(error: Exception, repo_id: str, revision: str | None, kind: str) -> str:
    """What a failure means for the user, and what to do."""
    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # huggingface_hub wraps the reason into "not in the cache"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    what, path = ("data set", "datasets/") if kind == "dataset" else ("model", "")
    page = f"{constants.ENDPOINT}/{path}{repo_id}"
    if isinstance(error, HFValidationError):
        return f"{repo_id!r} is no id of the hub: write owner/name, as roneneldan/TinyStories-33M"
    if isinstance(error, OfflineModeIsEnabled):
        version = f" at {revision}" if revision else ""
        return (
            f"{repo_id}{version} is not complete in the cache {constants.HF_HUB_CACHE}, and "
            "HF_HUB_OFFLINE is set: run once online without it"
        )
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: accept its terms at {page}, then {_LOGIN}"
    if isinstance(error, RepositoryNotFoundError):
        known = " (one model is published as TinyStories-Instuct-1Layer-21M)"
        return (
            f"the hub has no {what} {repo_id}, or it is private: check the spelling"
            f"{known if 'TinyStories-Ins' in repo_id else ''}; if it is private, {_LOGIN}"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no revision {revision!r}: see its branches and commits at {page}"
    if status in (401, 403):
        return f"the hub refuses to show {repo_id} ({status}): {_LOGIN} with a token that may read"
    if isinstance(error, EntryNotFoundError):
        name = str(error.response.url).rsplit("/", 1)[-1] if status else "a file"
        return f"{repo_id} lists {name} but the hub does not have it: give another revision"
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return (
            f"no space for {repo_id} in {constants.HF_HUB_CACHE}: free some, or set HF_HOME to a "
            "larger disk"
        )
    if getattr(error, "errno", None) in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"cannot write the cache {constants.HF_HUB_CACHE}: set HF_HOME to a folder of yours"
    reason = f"HTTP {status}" if status else f"{type(error).__name__}: {error}"
    return (
        f"cannot fetch {repo_id} from {constants.ENDPOINT} ({reason}): check the connection and "
        "run again; files that are whole are kept"
    )
