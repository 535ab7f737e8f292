"""Where a checkpoint lies: a folder, or a repository of the Hugging Face Hub in the local cache."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from policy.errors import UserError
from policy.weight_files import weight_files

_HUB_ID = re.compile(r"(?P<repository>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>.+))?")
# The weights once: in safetensors, and only where there are none in the older format.
_DESCRIPTION = ["*.json", "*.jinja"]
_PATTERNS = ([*_DESCRIPTION, "*.safetensors"], [*_DESCRIPTION, "pytorch_model*.bin"])


def checkpoint_folder(checkpoint: Path | str) -> Path:
    """The folder of a checkpoint, or of the Hub's ``owner/name[@revision]`` if there is none.

    A repository that is in the Hub's cache is taken from there without asking the Hub; otherwise
    it is downloaded into it. Raises ``UserError`` when it is neither cached nor to be had. A
    string that cannot be a Hub id, and a ``Path``, is returned as a path, whether it exists or not.
    """
    folder = Path(checkpoint)
    hub_id = _HUB_ID.fullmatch(checkpoint) if isinstance(checkpoint, str) else None
    if hub_id is None or folder.is_dir():
        return folder
    repository, revision = hub_id["repository"], hub_id["revision"]
    for local_files_only in (True, False):
        for patterns in _PATTERNS:
            try:
                snapshot = snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=patterns,
                    local_files_only=local_files_only,
                )
            except LocalEntryNotFoundError:
                continue
            except RevisionNotFoundError:
                raise UserError(
                    f"checkpoint {checkpoint}: {repository} has no revision {revision}"
                ) from None
            except RepositoryNotFoundError:
                raise UserError(
                    f"checkpoint {checkpoint}: neither a folder nor a repository of the Hub (if it"
                    " is a private or gated one, set HF_TOKEN)"
                ) from None
            except Exception as error:  # the network, the disk and the client each have their own
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UserError(f"checkpoint {checkpoint}: download failed: {reason}") from None
            if _is_whole(Path(snapshot)):
                return Path(snapshot)
    raise UserError(
        f"checkpoint {checkpoint} does not exist: no such folder, nothing in the Hub's cache, and"
        " the Hub holds no such checkpoint or cannot be reached"
    )


def config_folder(checkpoint: str) -> Path:
    """A folder with the checkpoint's config.json; of the Hub's that file alone is downloaded.

    Raises ``UserError`` when there is no such folder or repository, or it cannot be reached.
    """
    folder = Path(checkpoint)
    hub_id = _HUB_ID.fullmatch(checkpoint)
    if hub_id is None or folder.is_dir():
        return folder
    try:
        file = hf_hub_download(hub_id["repository"], "config.json", revision=hub_id["revision"])
    except Exception as error:  # the network, the disk and the client each have their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"checkpoint {checkpoint}: no such folder, and its config.json cannot be had from the"
            f" Hub: {reason}"
        ) from None
    return Path(file).parent


def _is_whole(snapshot: Path) -> bool:
    """Whether the cache holds what is needed: other programs cache single files."""
    try:
        weight_files(snapshot, pickled=True)
    except UserError:
        return False
    return all((snapshot / name).is_file() for name in ("config.json", "tokenizer.json"))
