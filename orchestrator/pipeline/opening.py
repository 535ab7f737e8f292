"""Opening a run: its ledger, its cluster, its actors, and the checkpoint that it goes on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from learner.step_checkpoint import verified_manifest
from orchestrator.pipeline.bookkeeping import Bookkeeper
from orchestrator.pipeline.drops import Drops
from orchestrator.pipeline.fixed_evaluation import FixedEvaluation
from orchestrator.pipeline.interrupt import Interrupt
from orchestrator.pipeline.keeping import TrajectoryKeeper
from orchestrator.pipeline.ledger import Ledger
from orchestrator.pipeline.ledger_folder import go_on_from, open_ledger
from orchestrator.pipeline.opening_cluster import open_cluster
from orchestrator.pipeline.opening_learners import Learners
from orchestrator.pipeline.roles import Publisher
from orchestrator.pipeline.run import Run
from orchestrator.pipeline.sample_records import TokenMaps, TrainingSamples
from orchestrator.pipeline.schedule import Layout, Schedule
from orchestrator.pipeline.stages import Stages, groups_per_batch
from orchestrator.pipeline.telemetry import open_telemetry
from orchestrator.record.progress import Progress
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.run_log import logged_to
from orchestrator.settings.batch_text import batch_text
from orchestrator.settings.check_process import CHECKING
from orchestrator.settings.host_needs import needs_of_run
from orchestrator.settings.inputs import Inputs
from orchestrator.settings.machine import logical_cpus
from orchestrator.settings.resources import roles
from orchestrator.settings.run_config import RunConfig
from orchestrator.settings.unchanged import check_unchanged, save_settings
from orchestrator.workers.group_files import GroupFiles
from orchestrator.workers.host_checks import check_hosts
from orchestrator.workers.object_stores import watched_object_stores
from orchestrator.workers.placement import no_room, reserved
from orchestrator.workers.publisher import IdlePublisher, WeightPublisher
from orchestrator.workers.reward_pools import RewardPools
from orchestrator.workers.rollout_pool import RolloutPool
from orchestrator.workers.stopped_workers import watch_for_stopped_workers
from orchestrator.workers.waiting import wait_answers
from policy.disk import fenced
from policy.errors import RunFailed, UserError


@contextmanager
def open_run(
    config: RunConfig,
    checked: Callable[[], Inputs],
    folder: RunFolder,
    interrupt: Interrupt,
    progress: Progress,
) -> Iterator[Run]:
    """Start the actors, and end them again whatever happens; the folder is closed then.

    If the folder holds a checkpoint of the run, the run goes on from it. A run of rollout alone
    goes on after the steps that it has kept. Raises ``UserError`` when the checkpoint is damaged or
    was written with other settings or input files, before any actor starts, and ``WorkerFailed``
    when an actor does not come up.
    """
    with closing(folder):
        step, checkpoint = _resume_point(folder, config)
        progress.begin(step)
        if not folder.goes_on:
            save_settings(config, folder.path)
        interrupt.stop_within_s = config.checkpoint.stop_within_s
        with (
            logged_to(folder.path / "run.log"),
            open_ledger(config.ledger, folder.path, progress.note) as ledger,
            fenced(folder.path, ledger.check_newest),
            _noted_in(ledger),
            open_telemetry(config, folder, ledger.epoch, ledger.run, config.steps) as telemetry,
            ExitStack() as opened,  # the cluster may outlive the run, and its actors must not
        ):
            open_cluster(opened, config.cluster, logical_cpus(config), progress)
            with progress.waiting(CHECKING):
                inputs = checked()
            if folder.goes_on:
                save_settings(config, folder.path)
            with progress.waiting("finding places for the workers"):
                places = opened.enter_context(reserved(config, roles(config)))
            _announce(progress, config, len(inputs.leaks))
            telemetry.announce(progress.note)
            telemetry.watch(ledger, opened.enter_context(watched_object_stores()))
            with progress.waiting("checking the hosts of the workers"):
                check_hosts(needs_of_run(config, inputs, roles(config)))
            # All roles start at the same time. Ray starts only as many processes at once as there
            # are cores, so the learner, which takes longest, is first. But while vLLM starts, it
            # measures the free memory of its GPU, which the other roles may share. They start after
            # it.
            alone = config.rollout.engine == "vllm"
            stopped = opened.enter_context(watch_for_stopped_workers())
            learners = Learners(config, inputs, places, stopped, progress.note)
            opened.callback(learners.close)
            if not alone:
                learners.start()
            rollout = RolloutPool(config, inputs, places)
            opened.callback(rollout.close)
            stopped.over(rollout)
            if alone:
                _wait_for_rollout(rollout, progress)
                learners.start()
            rewards = RewardPools(config, places)
            opened.callback(rewards.close)
            stopped.over(*rewards.pools.values())
            if not alone:
                _wait_for_rollout(rollout, progress)
            names = ", ".join(rewards.pools)
            with progress.waiting(f"loading rewards on the reward workers: {names}"):
                rewards.wait_ready()
            with progress.waiting(_learners_wait(config, checkpoint)):
                learner = learners.form_first(checkpoint, ledger)
            go_on_from(ledger, step, progress.note)
            folder.fall_back(step)
            telemetry.exporter.begin(folder.rows("metrics.jsonl"))
            publisher: Publisher = (
                WeightPublisher(config.probe_tolerance)
                if config.stages == "all"
                else IdlePublisher()
            )
            stages = Stages(
                config,
                inputs.prompts,
                Schedule(
                    Layout(
                        config.rollout.most_workers,
                        groups_per_batch(config, config.rollout.group_size),
                    ),
                    config.prompts_per_step,
                    step,
                    config.steps,
                    config.max_staleness,
                    config.rollout.attempts,
                ),
                rollout,
                rewards,
                publisher,
                ledger,
                Drops(folder, config.replacements),
                wait_answers,
                no_room,
                telemetry.exporter.snapshot,
            )
            stages.workers.ranks = learner.ranks
            stages.workers.listeners.append(progress.workers)
            stages.scaling.go_on(ledger.view().scaling)
            tokens = TokenMaps.of(config, inputs.model_path, inputs.size)
            evaluation = FixedEvaluation(
                config, inputs.evaluation_sets, rollout, stages, folder, tokens
            )
            yield Run(
                step=step,
                last_step=config.steps,
                stages=stages,
                keeper=TrajectoryKeeper(
                    config.trajectories.keep_steps,
                    folder.trajectories,
                    GroupFiles(config.rollout.timeout_s),
                ),
                samples=TrainingSamples(config.steps, folder, rollout, tokens),
                rollout=rollout,
                learner=learner,
                publisher=publisher,
                books=Bookkeeper(
                    *(config, folder, progress, evaluation, stages, ledger, telemetry.step),
                    last_saved=checkpoint,
                ),
                interrupt=interrupt,
                ledger=ledger,
                folder=folder,
                rollout_alone=config.stages == "rollout",
                form_learner=learners.form_anew,
                restarts=config.learner.restarts,
                entered=telemetry.exporter.stage,
            )


@contextmanager
def _noted_in(ledger: Ledger) -> Iterator[None]:
    """Leave the error that ends the run in the ledger, where ``eg-grpo status`` finds it."""
    try:
        yield
    except (RunFailed, UserError) as error:
        with suppress(RunFailed):  # the ledger itself may be what failed
            ledger.note_error(str(error))
        raise


def _resume_point(folder: RunFolder, config: RunConfig) -> tuple[int, Path | None]:
    """The steps that are done, and the checkpoint to go on from, with every file proved whole."""
    step, checkpoint = folder.resume_point(config.stages == "rollout")
    if checkpoint is not None:
        verified_manifest(checkpoint)
    if step:
        check_unchanged(config, folder.path)
    return step, checkpoint


def _wait_for_rollout(rollout: RolloutPool, progress: Progress) -> None:
    with progress.waiting(f"loading the policy on {_first('rollout worker', len(rollout.names))}"):
        rollout.wait_ready()


def _learners_wait(config: RunConfig, checkpoint: Path | None) -> str:
    """What the learner ranks do before the first step."""
    what = config.model.path if checkpoint is None else f"checkpoint {checkpoint.name}"
    return f"loading {what} on {_first('learner rank', config.learner.ranks)}"


def _first(what: str, count: int) -> str:
    """The first workers of a kind, such as ``learner rank 0`` or ``learner ranks 0 to 3``."""
    return f"{what} 0" if count == 1 else f"{what}s 0 to {count - 1}"


def _announce(progress: Progress, config: RunConfig, leaks: int) -> None:
    progress.note(f"run folder {config.folder}")
    progress.note(batch_text(config))
    workers, prompts = config.rollout.workers, config.prompts_per_step
    if (idle := workers - prompts * (config.max_staleness + 1)) > 0:
        progress.note(
            f"{idle} of {workers} rollout workers have nothing to draw in a step: a worker"
            f" draws whole groups, and a step has {prompts}"
        )
    if leaks:
        progress.note(
            f"{leaks} validation prompts are in the training file; data.leaks: {config.data.leaks}"
        )
    if config.bonus_distils_guidance:
        progress.note(
            f"images are drawn at guidance {config.rollout.guidance_scale:g} and the conditional"
            " distribution is trained: the bonus distils guidance (docs/evidence.md)"
        )
