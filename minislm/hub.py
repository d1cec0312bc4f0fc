"""Models of the Hugging Face hub: only the files that are read here, into the hub's own cache.

`huggingface_hub` does the work: cache, retries, revisions, progress, HF_HUB_OFFLINE, HF_TOKEN and
HF_ENDPOINT are as it documents them. This room chooses the files and tells what went wrong.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

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

from minislm.errors import UserError

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


def _snapshot(repo_id: str, revision: str | None, choose: _Choice) -> Path:
    """The cached folder of a revision with the files that `choose(repo_id, all names)` takes."""
    try:
        try:
            timeout = constants.HF_HUB_ETAG_TIMEOUT
            info = HfApi().model_info(repo_id, revision=revision, timeout=timeout)
        except RevisionNotFoundError:
            raise
        except _FAILURES:
            folder = _cached(repo_id, revision, choose)
            if folder is None:
                raise
            return folder
        wanted = choose(repo_id, {file.rfilename for file in info.siblings or ()})
        # By the name of the revision, not by info.sha: only so does the cache know it offline.
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except (HFValidationError, *_FAILURES) as error:
        raise UserError(" ".join(_explain(error, repo_id, revision).split())) from error


def _cached(repo_id: str, revision: str | None, choose: _Choice) -> Path | None:
    """The folder as the cache has it, or None when a part is missing (a download was killed)."""
    try:
        # The patterns matter since huggingface_hub 2: it refuses where one that the repository
        # has was not fetched. Both choices take these; `choose` sees to the configuration
        # and the weights, whose format only the folder tells.
        folder = snapshot_download(
            repo_id, revision=revision, allow_patterns=_TOKENIZER_FILES, local_files_only=True
        )
        choose(repo_id, {path.name for path in Path(folder).iterdir()})
    except (LocalEntryNotFoundError, UserError):
        return None
    return Path(folder)


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


def _explain(error: Exception, repo_id: str, revision: str | None) -> str:
    """What a failure means for the user, and what to do."""
    while isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # huggingface_hub wraps the reason into "not in the cache"
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    page = f"{constants.ENDPOINT}/{repo_id}"
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
            f"the hub has no model {repo_id}, or it is private: check the spelling"
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
