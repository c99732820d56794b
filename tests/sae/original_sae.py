"""The original system's sparse autoencoder, to state how ours differs; for comparison only.

It averages the L1 term over the latents, where sae-lens (Bricken et al. 2023) sums it, weighted by the norms of the
decoder's rows: its penalty is weaker by the number of latents and can be escaped by growing the decoder. It averages
the squared error over the components, where sae-lens sums. Source: ``SparseAutoencoder`` of the public GPTStoryworld
repository.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True, eq=False)
class OriginalSAE:
    """z = ReLU(x Wₑᵀ + bₑ), x̂ = z W_dᵀ + b_d.

    Attributes:
        enc_weight: (m, d).
        enc_bias: (m,).
        dec_weight: (d, m).
        dec_bias: (d,).
    """

    enc_weight: np.ndarray
    enc_bias: np.ndarray
    dec_weight: np.ndarray
    dec_bias: np.ndarray

    def __call__(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Latents (n, m) and reconstruction (n, d) of vectors (n, d)."""
        z = np.maximum(x @ self.enc_weight.T + self.enc_bias, 0)
        return z, z @ self.dec_weight.T + self.dec_bias

    def loss(self, x: np.ndarray, sparsity_coef: float, l2_coef: float) -> dict[str, float]:
        """``total`` = ``mse`` + sparsity_coef · ``sparsity`` + l2_coef · ``l2``, and ``l0``.

        ``mse`` is the mean over vectors and components, ``sparsity`` the mean of |z| over vectors and latents, ``l2``
        the Frobenius norm of the encoder (not its square), ``l0`` the mean number of latents above 0.001.
        """
        z, back = self(x)
        mse, sparsity = float(np.square(back - x).mean()), float(np.abs(z).mean())
        l2, l0 = float(np.linalg.norm(self.enc_weight)), float((z > 1e-3).sum(1).mean())
        total = mse + sparsity_coef * sparsity + l2_coef * l2
        return {"total": total, "mse": mse, "sparsity": sparsity, "l2": l2, "l0": l0}
