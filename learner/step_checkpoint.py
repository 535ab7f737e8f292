"""What a learner checkpoint folder holds, and the proof that it is whole.

    manifest.json   what kind of run wrote it, and the SHA-256 of every file; renamed
                    into place last
    state/          DeepSpeed's files: trained weights and optimizer
    model/          an ordinary checkpoint folder: generate from it, or start another run from it
    entropy_control.json  of a run with entropy control: its coefficients
    adapter/        of a LoRA run: what peft loads on top of the run's base. model/ is merged there
                    too, so that its readers need neither peft nor the base

Files in state/ are unpickled only after their digests were checked. A folder without manifest was
not finished, and is refused. All other files are on the disk before the manifest is. The run
deletes older checkpoints only after that, so that a power failure always leaves a whole one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from learner.config import LoraConfig
from policy.digest import sha256_of_each
from policy.disk import sync
from policy.errors import UserError
from policy.inner_path import stays_inside
from policy.text_files import read_json

if TYPE_CHECKING:  # the driver reads manifests, and needs neither of the two
    from torch import Tensor
    from transformers import JanusForConditionalGeneration

MANIFEST = "manifest.json"
MODEL, ADAPTER, STATE = "model", "adapter", "state"
_TOKENIZER_SUFFIXES = (".json", ".jinja", ".txt", ".model")


class Manifest(BaseModel):
    """The contents of ``manifest.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    weight_version: int  # updates since the run began
    world_size: int
    zero_stage: int
    dtype: str
    reference: str  # digest of the KL reference's weights, as far as they are trained
    lora: LoraConfig | None = None
    files: dict[str, str] = {}  # path relative to the folder -> SHA-256


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Hash every file in the folder, wait until all are on the disk, then write the manifest."""
    entries = sorted(folder.rglob("*"))
    written = [file for file in entries if file.is_file() and file != folder / MANIFEST]
    names = [file.relative_to(folder).as_posix() for file in written]
    files = dict(zip(names, sha256_of_each(written), strict=True))
    for path in (*entries, folder, folder.parent):
        sync(path)
    sealed = manifest.model_copy(update={"files": files})
    temporary = folder / f".{MANIFEST}"
    with temporary.open("w") as stream:
        stream.write(sealed.model_dump_json(indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(folder / MANIFEST)
    sync(folder)


def verified_manifest(folder: Path, others: Literal["refuse", "leave"] = "refuse") -> Manifest:
    """Read the manifest and check every file against it, before anything else is opened.

    model/, adapter/ and state/ may hold files that the manifest does not name. ``others`` says what
    to do about them: ``leave`` is for callers that open files by name only. Raises ``UserError``
    that names the first file that is missing, changed, outside of the folder or refused.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise UserError(
            f"checkpoint {folder} has no {MANIFEST}: it does not exist or was not finished"
        )
    try:
        manifest = Manifest.model_validate(read_json(file))
    except (UserError, ValidationError) as error:
        raise UserError(f"checkpoint file {file} is corrupt: {_first_line(error)}") from None
    paths = {name: folder / name for name in manifest.files}
    for name, path in paths.items():
        if not stays_inside(name) or not path.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"checkpoint file {file} names {name!r}, which is not in its folder")
        if not path.is_file():
            raise UserError(f"checkpoint file {path} is missing")
    for name, digest in zip(paths, sha256_of_each(list(paths.values())), strict=True):
        if digest != manifest.files[name]:
            path = paths[name]
            raise UserError(f"checkpoint file {path} is corrupt: its SHA-256 is not the manifest's")
    if others == "refuse":
        _refuse_others(folder, manifest)
    return manifest


def _refuse_others(folder: Path, manifest: Manifest) -> None:
    """Raise ``UserError`` for a file in model/, adapter/ or state/ that the manifest does not name.

    transformers and DeepSpeed find files there by pattern, and would load it. A linked folder is
    refused as well, because the walk does not go into it. Files elsewhere in the checkpoint are not
    loaded, and are left alone.
    """
    for part in (MODEL, ADAPTER, STATE):
        for parent, folders, files in os.walk(folder / part):
            links = (name for name in folders if Path(parent, name).is_symlink())
            for path in (Path(parent, name) for name in (*files, *links)):
                if path.relative_to(folder).as_posix() not in manifest.files:
                    raise UserError(
                        f"checkpoint file {path} is not in the checkpoint's {MANIFEST}: it came"
                        " later, and would be loaded; move it away"
                    )


def check_resumable(folder: Path, found: Manifest, expected: Manifest) -> None:
    """Raise ``UserError`` for a whole checkpoint that another kind of run wrote."""
    for name in ("zero_stage", "dtype", "lora"):
        ours, theirs = getattr(expected, name), getattr(found, name)
        if ours != theirs:
            raise UserError(
                f"checkpoint {folder} was written with {name} {_shown(theirs)}, not {_shown(ours)}"
            )
    if found.reference != expected.reference:
        raise UserError(f"checkpoint {folder} was trained against another KL reference")


def universal_folder(folder: Path) -> Path:
    """Where the converted state lies while another number of ranks loads the checkpoint.

    It is beside the checkpoint, so that ranks on other machines see it and the checkpoint stays as
    its manifest says.
    """
    return folder.with_name(f".{folder.name}.universal")


def export_model(
    folder: Path,
    source: Path,
    shell: JanusForConditionalGeneration,
    tensors: Iterable[tuple[str, Tensor]],
) -> None:
    """Write a checkpoint folder in transformers' format.

    ``shell`` is the model without weights, and ``tensors`` are all its weights. Tokenizer files are
    copied from the ``source`` folder. Raises ValueError if a tensor is missing, is not of the model
    or has another shape.
    """
    state = {name: tensor.cpu() for name, tensor in tensors}
    shapes = {name: tensor.shape for name, tensor in state.items()}
    expected = {name: tensor.shape for name, tensor in shell.state_dict().items()}
    if wrong := sorted(name for name, _ in shapes.items() ^ expected.items()):
        raise ValueError(f"{len(wrong)} tensors do not fit the model, the first is {wrong[0]}")
    shell.save_pretrained(folder, state_dict=state)
    for file in sorted(source.iterdir()):
        is_index = file.name.endswith(".index.json")
        if (
            file.suffix in _TOKENIZER_SUFFIXES
            and not is_index
            and not (folder / file.name).exists()
        ):
            shutil.copyfile(file, folder / file.name)


def _shown(value: object) -> str:
    return "none" if value is None else str(value)


def _first_line(error: Exception) -> str:
    return " ".join(str(error).splitlines()[:3])
