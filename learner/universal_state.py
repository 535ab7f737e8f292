"""Converts the state of a checkpoint to DeepSpeed's universal format, which any number of ranks
can load.

At ZeRO 1 to 3 every rank writes its own part of the optimizer state. The universal format holds the
whole tensors, in one file for each parameter and kind, and each rank cuts its part out of them. At
ZeRO 0 nothing has to be converted, because every rank has the whole state.
"""

from __future__ import annotations

import io
from argparse import Namespace
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

from learner.plain_path import plain_path
from policy.disk import writing


def write_universal(state: Path, folder: Path) -> None:
    """Convert DeepSpeed's files in ``state`` to universal ones in the new folder ``folder``.

    Verify the files first: unpickling one can run code. While this works, ``folder`` takes twice
    the room of the optimizer state. Raises ``NotWritten``, for instance when the disk is full.
    """
    # torch raises RuntimeError when the disk is full.
    with writing(folder, RuntimeError), plain_path(state) as source, plain_path(folder) as target:
        folder.mkdir(parents=True)
        # DeepSpeed prints its stages and draws progress bars.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            ds_to_universal.main(
                Namespace(
                    input_folder=source,
                    output_folder=target,
                    # More than one worker would fork this process, which has threads.
                    num_extract_workers=1,
                    num_merge_workers=1,
                    keep_temp_folder=False,
                    strict=True,
                    # The description of tensor parallelism, which is not used here.
                    inject_missing_state=True,
                )
            )
