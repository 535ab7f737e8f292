"""The rows about what the algorithm does: learning, entropy, rewards."""

from __future__ import annotations

from deploy.grafana.panels import Row, lines, rise, value

NO_WINDOW = "fewer than two scrapes in this time range"

LEARNING = Row(
    "Learning",
    [
        lines(
            "Total reward",
            "Weighted total of the rewards, mean over the trajectories of a step. It should rise.",
            "none",
            value("eg_grpo_reward_mean", "mean"),
        ),
        lines(
            "Spread of the total reward",
            "Standard deviation over a step, and inside a group. Only differences inside a group"
            " teach something.",
            "none",
            value("eg_grpo_reward_std", "over the step"),
            value("eg_grpo_reward_group_std", "inside a group"),
            lowest=0,
        ),
        lines(
            "Reward on fixed prompts",
            "Mean weighted total on each fixed evaluation set. Training never sees the held-out"
            " ones.",
            "none",
            value("eg_grpo_evaluation_reward_mean", "{{set}}"),
            no_value="no evaluation in this time range",
        ),
        lines(
            "Loss",
            "Loss of the whole batch. Its size says little, because advantages have mean 0.",
            "none",
            value("eg_grpo_loss", "loss"),
        ),
        lines(
            "Norm of the gradient",
            "Norm of the whole gradient before clipping. Exactly 0 means that nothing is learnt.",
            "none",
            value("eg_grpo_grad_norm", "norm"),
            lowest=0,
        ),
        lines(
            "Learning rate",
            "Learning rate of the update.",
            "sci",
            value("eg_grpo_learning_rate", "learning rate"),
        ),
        lines(
            "KL",
            "Estimate (k3) of the distance from the reference model, mean over tokens.",
            "suffix: nats",
            value("eg_grpo_kl_mean_nats", "KL"),
            no_value="no step in this time range, or algorithm.kl_beta is 0",
            lowest=0,
        ),
        lines(
            "Ratio",
            "Probability of a token in the learner over that recorded at rollout, mean over"
            " tokens. Far from 1 the rollout engine and the learner disagree, or rollouts are old.",
            "none",
            value("eg_grpo_ratio_mean", "mean"),
        ),
        lines(
            "Tokens with an unusual ratio",
            "Share of tokens whose ratio is below 0.9 or above 1.1, was clipped, or had its"
            " importance weight capped.",
            "percentunit",
            value("eg_grpo_ratio_outside_share", "outside 0.9 to 1.1"),
            value("eg_grpo_ratio_clipped_share", "clipped"),
            value("eg_grpo_ratio_capped_share", "capped (with algorithm.importance_cap)"),
            lowest=0,
        ),
        lines(
            "Advantage",
            "Absolute value of the advantage, mean over trajectories.",
            "none",
            value("eg_grpo_advantage_abs_mean", "absolute mean"),
            lowest=0,
        ),
        lines(
            "Skipped updates",
            "Updates of the last 30 minutes that were skipped because loss or gradient was not"
            " finite.",
            "none",
            rise("eg_grpo_updates_skipped_total", "skipped"),
            no_value=NO_WINDOW,
            lowest=0,
        ),
        lines(
            "Effect of guidance",
            "Guided minus conditional value of the image tokens: log-prob and entropy.",
            "suffix: nats",
            value("eg_grpo_guidance_logprob_gap_nats", "log-prob"),
            value("eg_grpo_guidance_entropy_gap_nats", "entropy"),
        ),
    ],
)

ENTROPY = Row(
    "Entropy",
    [
        lines(
            "Mean entropy, text against image",
            "Entropy over log of the vocabulary size, mean over the tokens of the CoT and of the"
            ' image. "usual" is the mean of the last 6 hours.',
            "none",
            value("eg_grpo_entropy_mean", "{{modality}}"),
            value("run_modality:eg_grpo_entropy_mean:avg6h", "{{modality}}, usual"),
            lowest=0,
        ),
        lines(
            "Spread of the entropy, text against image",
            "Standard deviation over tokens of the same entropy. The paper finds that reward falls"
            " as mean and spread of the image entropy rise.",
            "none",
            value("eg_grpo_entropy_std", "{{modality}}"),
            lowest=0,
        ),
        lines(
            "Tokens of low and high entropy",
            "Share of the tokens in the low set, which the reward does not train, and in the high"
            " set, which get the bonus.",
            "percentunit",
            value("eg_grpo_tokens_low_entropy_share", "low"),
            value("eg_grpo_tokens_high_entropy_share", "high"),
            lowest=0,
        ),
        lines(
            "Entropy bonus",
            "Mean over the high-entropy tokens.",
            "none",
            value("eg_grpo_bonus_mean", "bonus"),
        ),
        lines(
            "Advantages that the bonus reverses",
            "Share of the high-entropy tokens of negative advantage that the bonus turns positive."
            " More than 10 % is an alarm.",
            "percentunit",
            value("eg_grpo_bonus_flip_share", "reversed"),
            lowest=0,
        ),
        lines(
            "Factor of the bonus",
            "lambda_b, which makes the whole batch keep its budget.",
            "none",
            value("eg_grpo_lambda_b", "lambda_b"),
            no_value="only with algorithm.bonus: budget or budget-exact",
        ),
        lines(
            "Length of the CoT",
            "Tokens of a chain of thought, mean over trajectories.",
            "suffix: tokens",
            value("eg_grpo_cot_length_mean_tokens", "mean"),
            lowest=0,
        ),
        lines(
            "CoTs that were cut",
            "Share of the chains of thought that rollout.max_cot_tokens cut before their end.",
            "percentunit",
            value("eg_grpo_cot_length_capped_share", "cut"),
            lowest=0,
            highest=1,
        ),
    ],
)

REWARDS = Row(
    "Rewards",
    [
        lines(
            "Mean of each reward",
            "Unweighted score, mean over the trajectories that the reward judged. A reward that"
            " rises alone may be exploited.",
            "none",
            value("eg_grpo_score_mean", "{{reward}}"),
        ),
        lines(
            "Spread of each reward",
            "Standard deviation over the trajectories of a step. 0 means a constant scorer.",
            "none",
            value("eg_grpo_score_std", "{{reward}}"),
            lowest=0,
        ),
        lines(
            "Parts of the rewards",
            "Mean of each part that a reward names in the detail of its scores.",
            "none",
            value("eg_grpo_score_detail_mean", "{{reward}}: {{part}}"),
            no_value="no reward of this run names parts",
        ),
        lines(
            "Groups",
            "Groups of the last 30 minutes: trained on, trained on with equal rewards, dropped"
            " because too few scores came.",
            "none",
            rise("eg_grpo_groups_trained_total", "trained"),
            rise("eg_grpo_groups_zero_variance_total", "without variance"),
            rise("eg_grpo_groups_failed_total", "dropped"),
            no_value=NO_WINDOW,
            lowest=0,
        ),
        lines(
            "Groups without variance",
            "Share of the groups trained on in 30 minutes whose rewards are all equal.",
            "percentunit",
            value("run:eg_grpo_groups_zero_variance:share30m", "without variance"),
            lowest=0,
            highest=1,
        ),
        lines(
            "Failed scores for each image",
            "Failed scores of a reward for each image that was trained on, in 30 minutes. A failed"
            " score is never counted as 0.",
            "percentunit",
            value("run_reward:eg_grpo_scores_failed:per_image30m", "{{reward}}"),
            no_value=NO_WINDOW,
            lowest=0,
        ),
        lines(
            "Failed scores",
            "Scores of the last 30 minutes that a reward could not give.",
            "none",
            rise("eg_grpo_scores_failed_total", "{{reward}}"),
            no_value=NO_WINDOW,
            lowest=0,
        ),
        lines(
            "Failed scores by reason",
            "The same by the kind of reason. The reward's own message is in run.log.",
            "none",
            rise("eg_grpo_scores_failed_by_reason_total", "{{reward}}: {{reason}}"),
            no_value="no score has failed",
            lowest=0,
        ),
        lines(
            "Time of a score() call",
            "Mean and longest call of the last step, by reward.",
            "s",
            value("eg_grpo_scoring_call_mean_seconds", "{{reward}}, mean"),
            value("eg_grpo_scoring_call_max_seconds", "{{reward}}, longest"),
            lowest=0,
        ),
        lines(
            "Trajectories in a score() call",
            "Mean over the calls of the last step, by reward.",
            "none",
            value("eg_grpo_scoring_batch_size", "{{reward}}"),
            lowest=0,
        ),
        lines(
            "Scores from the cache",
            "Share of the scores of the last step that the cache held.",
            "percentunit",
            value("eg_grpo_score_cache_hit_ratio", "{{reward}}"),
            no_value="the cache was not asked for scores",
            lowest=0,
            highest=1,
        ),
        lines(
            "Repeated batches and replaced workers",
            "Batches of the last 30 minutes that were scored again, and reward workers that were"
            " replaced.",
            "none",
            rise("eg_grpo_scoring_retries_total", "{{reward}}, repeated"),
            rise("eg_grpo_reward_worker_restarts_total", "{{reward}}, replaced"),
            no_value=NO_WINDOW,
            lowest=0,
        ),
    ],
)
