"""Every private name of TRL that we lean on, in one place.

The pinned range of TRL is in pyproject; `tests/unit/test_trl_compat.py` fails loudly when one of these names changes its meaning. Where
a setting asks for something that the short paths here do not cover, TRL's own code runs instead, with the same result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # `rollout_func` is marked experimental; the tests watch it

from trl import GRPOTrainer

from distillability.budgets import UPDATE_PASSES
from distillability.models.head import has_plain_head, states_and_head
from distillability.ops.logprobs import chosen_logprobs, token_logprobs
from distillability.ops.policy_loss import clipped_token_loss, k3
from distillability.ops.projection import projected_sum
from distillability.ops.sharding import is_sharded, redirect_forward

__all__ = ["LeanGRPOTrainer", "frozen_reference"]

# A forward pass takes rows until the next is so many times as long as its first; at least so many, or a quarter of all. Every pass reads
# all weights, and under autocast keeps half-precision copies of those that an adapter does not train until the backward pass.
_LIKE_LENGTH, _ROWS_A_PASS = 1.25, 8


@dataclass(frozen=True)
class _Positions:
    """The completion tokens of a batch of which equal rows are kept once.

    passes: what to forward, each (input_ids, attention_mask, rows, columns) without a column that is padding everywhere.
    targets: [N] the tokens themselves, pass after pass; first: [N, 2] their row (the first of its equals) and column among completions.
    copies: [N] how many rows of the batch each position stands for; row_of: [B] the first equal of each row.
    """

    passes: list[dict[str, torch.Tensor]]
    targets: torch.Tensor
    first: torch.Tensor
    copies: torch.Tensor
    row_of: torch.Tensor

    def of(self, values: torch.Tensor) -> torch.Tensor:
        """[N] from a value of each completion [B] or [B, 1], or of each token [B, C]."""
        if values.dim() == 1 or values.shape[1] == 1:
            return values.flatten()[self.first[:, 0]]
        return values[self.first[:, 0], self.first[:, 1]]

    def spread(self, values: torch.Tensor, width: int) -> torch.Tensor:
        """[B, width] from values [N]; 0 outside completions."""
        whole = values.new_zeros(len(self.row_of), width)
        whole[self.first[:, 0], self.first[:, 1]] = values
        return whole[self.row_of]


class LeanGRPOTrainer(GRPOTrainer):
    """A GRPOTrainer that does the same with less: equal completions once, completion tokens only, no logits of a whole batch.

    After each `_compute_loss`, detached, [B], in nats at temperature 1, of every completion of that micro-batch: `last_surprisal` holds
    −Σ_t log π_θ, and `last_anchor` Σ_t (log π_θ − log π₀), None where no reference takes part in the loss. When rewards are computed,
    `reference_sums` holds Σ_t log π₀ of every completion, [B]; None where there is no anchor.
    """

    last_anchor: torch.Tensor | None = None
    last_surprisal: torch.Tensor
    reference_sums: torch.Tensor | None = None
    _policy_logprobs: torch.Tensor

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        self._plain_head = has_plain_head(self.accelerator.unwrap_model(self.model))  # and so is the reference's

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        compute_aux_loss: bool = False,
        **images: Any,
    ) -> Any:
        lean = not (compute_entropy or compute_aux_loss or self.temperature != 1.0 or any(x is not None for x in images.values()))
        if not lean or torch.is_grad_enabled():
            output = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, compute_aux_loss, **images
            )
            logprobs = output[0].detach()
        else:
            most_rows = batch_size or len(input_ids)
            positions = _positions(input_ids, attention_mask, logits_to_keep, None, most_rows, fixed=is_sharded(model))
            inner = self.accelerator.unwrap_model(model)
            found = redirect_forward(model, inner, lambda: self._chosen(inner, positions))
            logprobs = positions.spread(found, logits_to_keep)
            output = logprobs, None, None
        if torch.is_grad_enabled():
            self._policy_logprobs = logprobs
        elif self.beta != 0.0:  # the reference's turn is the last before the rewards'
            self.reference_sums = (logprobs * attention_mask[:, -logits_to_keep:]).sum(1)
        return output

    def _chosen(self, model: Any, positions: _Positions) -> torch.Tensor:
        parts, done = [], 0
        with self.accelerator.autocast():
            for inputs in positions.passes:
                states, head = states_and_head(model, plain_head=self._plain_head, **inputs)
                parts.append(chosen_logprobs(states, head, positions.targets[done : done + len(states)]))
                done += len(states)
        return torch.cat(parts)

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        reference = inputs.get("ref_per_token_logps")
        mask = inputs["completion_mask"]
        if self._has_short_loss(inputs):
            loss, logprobs = self._short_loss(model, inputs)
        else:
            loss = super()._compute_loss(model, inputs)
            logprobs = self._policy_logprobs
        self.last_surprisal = -(logprobs * mask).sum(1)
        self.last_anchor = None if reference is None else ((logprobs - reference) * mask).sum(1)
        return loss

    def _has_short_loss(self, inputs: dict[str, Any]) -> bool:
        """Whether the settings are those that `_short_loss` knows: DAPO's global token mean, ratios by token, text only."""
        args = self.args
        known = {
            *("prompt_ids", "prompt_mask", "completion_ids", "completion_mask", "advantages", "num_items_in_batch"),
            *("old_per_token_logps", "ref_per_token_logps"),
            *("importance_sampling_ratio", "sampling_per_token_logps"),  # of vLLM
        }
        return (
            self.loss_type == "dapo"
            and self.importance_sampling_level == "token"
            and self.temperature == 1.0
            and self.top_entropy_quantile == 1.0
            and self.off_policy_mask_threshold is None
            and args.delta is None
            and not self._entropy_bonus_enabled
            and not self.aux_loss_enabled
            and inputs["advantages"].dim() == 1
            and set(inputs) <= known
        )

    def _short_loss(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        """The loss, and the policy's log-probabilities [B, C], detached."""
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        width = inputs["completion_ids"].shape[1]
        alike = inputs["advantages"]
        if "importance_sampling_ratio" in inputs:  # vLLM's rounding depends on what else it decodes, so that no two rows are equal
            alike = torch.arange(len(ids))
        positions = _positions(ids, mask, width, alike, len(ids), fixed=is_sharded(model))
        inner = self.accelerator.unwrap_model(model)
        logprobs = torch.empty(len(positions.targets), device=ids.device)
        normalizer = inputs["num_items_in_batch"].clamp(min=1.0) / self.accelerator.num_processes
        if self.model.training:
            normalizer = normalizer * self.current_gradient_accumulation_steps / self.args.steps_per_generation
        # Divided inside: a wrapper may round what comes out, and with it the gradient of what is done to it.
        loss = redirect_forward(model, inner, lambda: self._weighted_sum(inner, positions, inputs, logprobs) / normalizer)
        self._log_token_means(positions, inputs, logprobs)
        return loss, positions.spread(logprobs, width)

    def _weighted_sum(self, model: Any, positions: _Positions, inputs: dict[str, Any], logprobs: torch.Tensor) -> torch.Tensor:
        """Σ over all tokens of the micro-batch; writes their log-probabilities into `logprobs` [N]."""
        advantages = positions.of(inputs["advantages"])
        old, reference, weights = (positions.of(x) if (x := inputs.get(key)) is not None else None for key in _RECORDED)
        targets, copies = positions.targets, positions.copies

        def loss(logits: torch.Tensor, part: slice) -> torch.Tensor:
            chosen = token_logprobs(logits, targets[part])
            logprobs[part] = chosen.detach()
            losses = clipped_token_loss(
                chosen,
                advantages=advantages[part],
                old=None if old is None else old[part],
                reference=None if reference is None else reference[part],
                clip=(self.epsilon_low, self.epsilon_high),
                anchor_coefficient=self.beta,
                reverse_anchor=self.args.use_bias_correction_kl,
                weights=None if weights is None else weights[part],
            )
            return (losses * copies[part]).sum()

        with self.accelerator.autocast():
            found = [states_and_head(model, plain_head=self._plain_head, **inputs) for inputs in positions.passes]
            return projected_sum(torch.cat([states for states, _ in found]), found[0][1], loss)

    def _log_token_means(self, positions: _Positions, inputs: dict[str, Any], logprobs: torch.Tensor) -> None:
        """What TRL logs under these names; the entropy as the mean of −log π_θ over sampled tokens, which is unbiased and free."""
        values = {"entropy": -logprobs}
        if inputs.get("ref_per_token_logps") is not None:
            values["kl"] = k3(logprobs, positions.of(inputs["ref_per_token_logps"]))
        mode = "train" if self.model.training else "eval"
        for name, value in values.items():
            totals = torch.stack([(value * positions.copies).sum(), positions.copies.sum()])
            totals = self.accelerator.reduce(totals, reduction="sum")
            self._metrics[mode][name].append((totals[0] / totals[1].clamp(min=1.0)).item())


_RECORDED = ("old_per_token_logps", "ref_per_token_logps", "importance_sampling_ratio")


def frozen_reference(trainer: GRPOTrainer) -> torch.nn.Module | None:
    """The original teacher that TRL loaded for its KL term; None where it needs none."""
    reference = trainer.ref_model
    return None if reference is None else trainer.accelerator.unwrap_model(reference)


def _positions(
    ids: torch.Tensor, mask: torch.Tensor, width: int, key: torch.Tensor | None, most_rows: int, *, fixed: bool = False
) -> _Positions:
    """Equal rows of a batch [B, P + width] once, in passes of at most `most_rows` rows of like length.

    Args:
        key: [B] of which rows must agree, too, to count as equal.
        fixed: ⌈B / most_rows⌉ passes whatever the rows say: every row, cut at this number alone. What processes need that gather weights
            together in every pass.
    """
    device = ids.device
    rows_as_text = [tuple(row) for row in torch.where(mask.bool(), ids, -1).tolist()]
    keys = list(range(len(ids))) if fixed else [None] * len(ids) if key is None else key.tolist()
    first: dict[tuple[Any, ...], int] = {}
    row_of = [first.setdefault((text, value), row) for row, (text, value) in enumerate(zip(rows_as_text, keys, strict=True))]
    copies = torch.bincount(torch.tensor(row_of), minlength=len(row_of))
    tokens = {row: [token for token in rows_as_text[row] if token >= 0] for row in first.values()}
    n_completion = mask[:, -width:].sum(1).tolist()
    order = sorted(tokens, key=lambda row: len(tokens[row]))
    passes, places = [], []
    lengths = [len(tokens[row]) for row in order]
    for part in [slice(row, row + most_rows) for row in range(0, len(ids), most_rows)] if fixed else _passes(lengths, most_rows):
        rows = order[part]
        longest = max(len(tokens[row]) for row in rows)
        places += [(row, column) for row in rows for column in range(n_completion[row])]
        columns = [len(tokens[row]) - n_completion[row] - 1 + i for row in rows for i in range(n_completion[row])]
        passes.append(
            {
                "input_ids": torch.tensor([tokens[row] + [0] * (longest - len(tokens[row])) for row in rows], device=device),
                "attention_mask": torch.tensor(
                    [[1] * len(tokens[row]) + [0] * (longest - len(tokens[row])) for row in rows], device=device
                ),
                "rows": torch.tensor([i for i, row in enumerate(rows) for _ in range(n_completion[row])], device=device),
                "columns": torch.tensor(columns, device=device),
            }
        )
    where = torch.tensor(places, device=device).view(-1, 2)
    return _Positions(
        passes=passes,
        targets=ids[:, -width:][where[:, 0], where[:, 1]],
        first=where,
        copies=copies.to(device)[where[:, 0]].float(),
        row_of=torch.tensor(row_of, device=device),
    )


def _passes(lengths: Sequence[int], most_rows: int) -> Iterator[slice]:
    """Cuts rows of ascending lengths into passes of like length, of at most `most_rows` rows."""
    start, least = 0, max(_ROWS_A_PASS, len(lengths) // UPDATE_PASSES)
    for row in range(1, len(lengths)):
        grown = row - start >= least and lengths[row] > _LIKE_LENGTH * lengths[start]
        if grown or row - start == most_rows:
            yield slice(start, row)
            start = row
    yield slice(start, len(lengths))
