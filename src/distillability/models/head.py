"""The last hidden states of a model and the head that turns them into logits, so that logits can be had a few positions at a time."""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from distillability.models.eval_mode import eval_mode
from distillability.models.fused import FusedModel, is_narrow, unsupported
from distillability.ops.projection import computed_in

__all__ = ["has_plain_head", "states_and_head"]


_PROBE_TOKENS = 8


@torch.no_grad()
def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the output embedding of the last hidden state and nothing else, tried on a few token ids.

    Some architectures scale or cap their logits afterwards; the configuration does not say so in one place, a forward pass does.
    """
    probe = range(min(_PROBE_TOKENS, model.config.get_text_config().vocab_size))
    inputs = {"input_ids": torch.tensor([list(probe)], device=model.device)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with eval_mode(model):
        hidden = getattr(model.get_decoder()(**inputs, use_cache=False), "last_hidden_state", None)
        head = model.get_output_embeddings()
        if hidden is None or head is None:
            return False
        ours = head(hidden)  # first: a whole pass of a divided model ends with its weights in parts again
        logits = model(**inputs, use_cache=False).logits
    return torch.equal(ours.float(), logits.float())


def states_and_head(
    model: PreTrainedModel,
    *,
    plain_head: bool,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
) -> tuple[torch.Tensor, torch.nn.Module]:
    """States [N, …] at the positions (row, column) of a right-padded batch [B, T], and the module that makes logits [N, V] of them.

    With a plain head these are the last hidden states and the output embedding; otherwise the logits themselves and the identity. Where no
    gradient is asked for and fusing pays, the states are those of the fused model, equal but for rounding.
    """
    if plain_head and _fusing_pays(model, input_ids.shape[1]):
        fused = FusedModel(model, computed_in(model.get_input_embeddings().weight))
        return fused.normed(fused.states(input_ids)[rows, columns]), model.get_output_embeddings()
    inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
    if plain_head:
        return model.get_decoder()(**inputs).last_hidden_state[rows, columns], model.get_output_embeddings()
    return model(**inputs).logits[rows, columns], torch.nn.Identity()


def _fusing_pays(model: PreTrainedModel, length: int) -> bool:
    """A narrow model on a processor is fused in a hundredth of the time that its forward pass takes."""
    frozen = not torch.is_grad_enabled() and not model.training
    return frozen and model.device.type == "cpu" and is_narrow(model) and unsupported(model, length) is None
