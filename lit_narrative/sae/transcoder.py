"""A transcoder in training: from the vectors at one place of a model to those at another, through few features.

sae-lens has transcoders to use and none to train, so the training form is here; what is saved is sae-lens' own
``transcoder`` (Dunefsky, Chlenski and Nanda 2024, "Transcoders find interpretable LLM feature circuits").
This module imports sae_lens, which takes seconds: import it where it is used.
"""

from dataclasses import dataclass

import torch
from sae_lens.saes.sae import TrainStepInput, TrainStepOutput
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from torch import Tensor, nn


@dataclass
class TranscoderTrainingConfig(StandardTrainingSAEConfig):
    """Settings of a transcoder's training: those of a standard autoencoder, and ``d_out``, the vectors predicted."""

    d_out: int = 1
    apply_b_dec_to_input: bool = False

    @classmethod
    def architecture(cls) -> str:
        """The name under which sae-lens knows what is saved."""
        return "transcoder"


class TrainingTranscoder(StandardTrainingSAE):
    """ReLU features of x (n, d_in) whose sum reproduces y (n, d_out), with an L1 penalty.

    A batch is x and y side by side, (n, d_in + d_out).
    """

    cfg: TranscoderTrainingConfig

    def initialize_weights(self) -> None:
        """Draw encoder and decoder apart: they belong to different spaces. Decoder rows have unit norm."""
        super().initialize_weights()
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_out, dtype=self.dtype, device=self.device))
        drawn = nn.init.kaiming_uniform_(
            torch.empty(self.cfg.d_sae, self.cfg.d_out, dtype=self.dtype, device=self.device)
        )
        self.W_dec = nn.Parameter(nn.functional.normalize(drawn, dim=1))

    def process_sae_in(self, sae_in: Tensor) -> Tensor:
        """What the encoder reads: the decoder's bias, of the other space, is not taken off."""
        return self.run_time_activation_norm_fn_in(self.hook_sae_input(sae_in.to(self.dtype)))

    def training_forward_pass(self, step_input: TrainStepInput) -> TrainStepOutput:
        """Loss of predicting y from x."""
        x, y = step_input.sae_in.split([self.cfg.d_in, self.cfg.d_out], dim=1)
        acts, hidden = self.encode_with_hidden_pre(x)
        out = self.decode(acts)
        mse: Tensor = self.mse_loss_fn(out, y).sum(dim=-1).mean()
        penalties = self.calculate_aux_loss(step_input, acts, hidden, out)
        losses = {"mse_loss": mse, **penalties}
        return TrainStepOutput(x, out, acts, hidden, torch.stack([*losses.values()]).sum(), losses)
