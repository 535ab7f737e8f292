"""Finds the folder of a checkpoint. The checkpoint is given as a path or as a Hugging Face Hub id.

A repository of the Hub is taken from the Hub's local cache. It is downloaded when the cache does
not have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from policy.checkpoint.weight_files import weight_files
from policy.errors import UserError

_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>.+))?")
_DESCRIPTION = ["*.json", "*.jinja", "*.txt"]
# A repository may hold its weights in two formats. One is enough: safetensors is asked for first,
# and the older format only if there are no safetensors.
_WEIGHTS = (["*.safetensors"], ["pytorch_model*.bin"])


def checkpoint_folder(
    checkpoint: Path | str,
    needed: Sequence[str] = ("config.json", "tokenizer.json", "tokenizer_config.json"),
    weights: bool = True,
) -> Path:
    """The folder that holds a checkpoint, given as a path or as a Hub id ``owner/name[@revision]``.

    A string names a Hub id if it has that form and there is no such folder. Anything else is
    returned as a path, whether it exists or not.

    A Hub id gives the repository's folder in the Hub's cache. If the cache has all files that are
    asked for, the Hub is not contacted; otherwise the repository is downloaded. ``needed`` names
    these files, and ``weights`` says whether the weight files are among them. Raises ``UserError``
    when the repository cannot be found, or names the file that cannot be found.
    """
    folder = Path(checkpoint)
    hub_id = _hub_id(checkpoint)
    if hub_id is None or folder.is_dir():
        return folder
    missing: str | None = None
    for local_files_only in (True, False):
        for patterns in _WEIGHTS if weights else ([],):
            found = _from_hub(
                hub_id,
                snapshot_download,
                allow_patterns=[*_DESCRIPTION, *patterns],
                local_files_only=local_files_only,
            )
            if found is None:
                continue
            if (missing := _missing(found, needed, weights)) is None:
                return found
    raise _not_there(checkpoint, missing)


def checkpoint_file(checkpoint: Path | str, name: str) -> Path:
    """One existing file: ``checkpoint`` itself, or ``name`` in that folder or Hub repository.

    A Hub id is looked up as in ``checkpoint_folder``. Raises ``UserError`` when there is no file.
    """
    path = Path(checkpoint)
    if path.is_dir():
        path = path / name
    if path.is_file():
        return path
    hub_id = _hub_id(checkpoint)
    if hub_id is None or Path(checkpoint).is_dir():
        raise UserError(f"checkpoint {path} does not exist")
    for local_files_only in (True, False):
        found = _from_hub(hub_id, hf_hub_download, filename=name, local_files_only=local_files_only)
        if found is not None:
            return found
    raise _not_there(checkpoint)


def _hub_id(checkpoint: Path | str) -> re.Match[str] | None:
    return _HUB_ID.fullmatch(checkpoint) if isinstance(checkpoint, str) else None


def _from_hub(hub_id: re.Match[str], download: Callable[..., str], **options: Any) -> Path | None:
    """The path that ``download`` returns, or None when the files cannot be had.

    If the Hub cannot be reached, this is the cached folder, which may hold only some of the files.
    """
    checkpoint, repository, revision = hub_id[0], hub_id["repository"], hub_id["revision"]
    try:
        return Path(download(repository, revision=revision, **options))
    except LocalEntryNotFoundError as error:
        partial: str | None = getattr(error, "snapshot_path", None)
        return None if partial is None or options["local_files_only"] else Path(partial)
    except RevisionNotFoundError:
        raise UserError(
            f"checkpoint {checkpoint}: {repository} has no revision {revision}"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(
            f"checkpoint {checkpoint}: neither a folder nor a repository of the Hub (if it"
            " is a private or gated one, set HF_TOKEN)"
        ) from None
    except Exception as error:  # the network, the disk and the Hub's client raise many classes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"checkpoint {checkpoint}: download failed: {reason}") from None


def _not_there(checkpoint: Path | str, missing: str | None = None) -> UserError:
    if missing is not None:
        return UserError(
            f"checkpoint {checkpoint} has no {missing}: not in the Hub's cache, and not in the Hub"
            " or it cannot be reached"
        )
    return UserError(
        f"checkpoint {checkpoint} does not exist: no such folder, nothing in the Hub's cache, and"
        " the Hub holds no such checkpoint or cannot be reached"
    )


def is_at_hand(checkpoint: str) -> bool:
    """Whether the checkpoint's config.json can be read from disk, without a download."""
    hub_id = _hub_id(checkpoint)
    if hub_id is None or Path(checkpoint).is_dir():
        return (Path(checkpoint) / "config.json").is_file()
    cached = _from_hub(hub_id, hf_hub_download, filename="config.json", local_files_only=True)
    return cached is not None


def config_folder(checkpoint: str) -> Path:
    """A folder that holds the checkpoint's config.json. From the Hub only that file is downloaded.

    Raises ``UserError`` when the repository does not exist or the Hub cannot be reached.
    """
    folder = Path(checkpoint)
    if _hub_id(checkpoint) is None or folder.is_dir():
        return folder
    return checkpoint_file(checkpoint, "config.json").parent


def _missing(snapshot: Path, needed: Sequence[str], weights: bool) -> str | None:
    """The name of a needed file that a cached folder lacks, or None if it has all of them.

    The folder may be incomplete, because other programs download single files into the cache.
    """
    for name in needed:
        if not (snapshot / name).is_file():
            return name
    try:
        if weights:
            weight_files(snapshot, pickled=True)
    except UserError:
        return "complete weights"
    return None


def hub_revision(folder: Path) -> tuple[str, str] | None:
    """Repository and commit of a folder in the Hub's cache; None for any other folder."""
    *_, repository, snapshots, commit = ("", "", *folder.absolute().parts)
    kind, *names = repository.split("--")
    if snapshots != "snapshots" or kind != "models" or not names:
        return None
    return "/".join(names), commit
