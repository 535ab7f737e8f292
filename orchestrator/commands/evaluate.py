"""``eg-grpo evaluate``: measures a checkpoint, or the images of another model, with a suite."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from evaluation.markdown_table import table
from evaluation.suites.registry import suite_named
from orchestrator.pipeline.interrupt import graceful_interrupt
from orchestrator.record.evaluation_folder import ASKED, PROMPTS, RESULT, EvaluationFolder
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import read_rows
from orchestrator.settings.cluster_address import cluster_address
from orchestrator.workers.cluster import private_environment
from policy.disk import check_vacant, writing
from policy.errors import RunFailed, Stopped, UserError
from policy.inner_path import stays_inside
from policy.text_files import read_json
from policy.types import JsonDict


def run(parsed: argparse.Namespace) -> None:
    """Draw, score and print the result's columns, or print the table of several results.

    Raises ``RunFailed`` or ``Stopped`` with a message that says how to go on.
    """
    if parsed.action == "table":
        print(table([_name(folder) for folder in parsed.folders], _results(parsed.folders)), end="")
        return
    if parsed.action == "export":
        print(f"{_export(parsed.folder, parsed.output)} images in {parsed.output}")
        return
    if parsed.action == "list":
        _list(parsed.suite, parsed.overrides)
        return
    if parsed.action == "draw":
        from orchestrator.commands.other_model import draw

        draw(parsed)
        return
    if parsed.action == "understanding":
        from orchestrator.commands.understanding import measure

        _print(measure(parsed))
        return
    with graceful_interrupt():
        try:
            _evaluate(parsed)
        except KeyboardInterrupt:
            raise Stopped(f"stopped; {_GO_ON}") from None
        except RunFailed as error:
            raise RunFailed(f"{error}; {_GO_ON}") from error


_GO_ON = "the same command goes on where this one ended"


def _evaluate(parsed: argparse.Namespace) -> None:
    if (parsed.model is None) == (parsed.images is None):
        raise UserError("give either --model or --images")
    from orchestrator.settings.suite_images import about_images, given_images
    from orchestrator.settings.suite_inputs import check_scoring, check_suite

    # A new folder is not made before all is checked. Where one is gone on with, only the roles that
    # have something left are: the rest may have been done on a machine with GPUs.
    begun = (parsed.out / ASKED).is_file()
    suite = suite_named(parsed.action)
    inputs = check_suite(suite, parsed.model, parsed.overrides, scores=not begun)
    given, asked = None, inputs.asked()
    if parsed.images is not None:
        given = given_images(parsed.images, inputs)
        asked |= about_images(parsed.images, given)
    folder = EvaluationFolder(parsed.out, asked)
    try:
        if cluster_address(inputs.config.cluster.address) is None:
            private_environment()
        # These modules import Ray, which reads the environment only once.
        from orchestrator.pipeline.evaluation import Evaluation
        from orchestrator.pipeline.opening_evaluation import evaluate

        evaluation = Evaluation(inputs, folder, given)
        if begun:
            left = evaluation.scorers_left()
            check_scoring(inputs.config, left, draws=bool(evaluation.to_draw()))
        evaluation.list_prompts()
        evaluate(evaluation, Progress(steps=1))
        file = evaluation.finish()
    finally:
        folder.close()
    _print(file)


def _list(suite: str, overrides: list[str]) -> None:
    """Print the prompts of a suite with the places by which ``--images`` knows them."""
    from orchestrator.settings.suite_inputs import check_suite

    inputs = check_suite(suite_named(suite), None, overrides, scores=False)
    for row in inputs.listed():
        # Of a part of the suite too, images are named by the places in the whole of it.
        print(json.dumps(row | {"place": inputs.places[row["prompt_id"]]}, ensure_ascii=False))


def _export(folder: Path, output: Path) -> int:
    """Copy the images of an evaluation under the names of the suite's authors; returns how many.

    Raises ``UserError`` before anything is copied when the suite has no such names, a name is no
    safe file name, or an image is missing.
    """
    check_vacant(output)
    copies = [
        (folder / "images" / f"{row['place']:05d}" / f"{index:02d}.png", name)
        for row in read_rows(folder / PROMPTS)
        for index, name in enumerate(row["official_names"])
    ]
    if not copies:
        raise UserError(f"{folder}: its suite has no official names of images, or has not begun")
    for file, name in copies:
        if not stays_inside(name) or max(len(part.encode()) for part in Path(name).parts) > 255:
            raise UserError(f"{folder}: {name!a} is no safe name of a file")
        if not file.is_file():
            raise UserError(f"{folder} has no {file.name} of {name}: run its evaluation to the end")
    for file, name in copies:
        with writing(output / name):
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, output / name)
    return len(copies)


def _results(folders: Sequence[Path]) -> list[JsonDict]:
    """The results in the folders. Raises ``UserError`` for a folder without one."""
    found = []
    for folder in folders:
        if not (folder / RESULT).is_file():
            raise UserError(f"{folder} holds no {RESULT}: run its evaluation to the end")
        found.append(read_json(folder / RESULT))
    return found


def _name(folder: Path) -> str:
    return folder.absolute().name


def _print(file: Path) -> None:
    result: JsonDict = read_json(file)
    for column in result["columns"]:
        if column["value"] is None:  # of a stratum that was not asked for
            continue
        note = f"  not comparable: {column['not_comparable']}" if column["not_comparable"] else ""
        print(f"{column['name']:<24}{column['value']:>8.2f}{note}")
    print(f"result: {file}")
