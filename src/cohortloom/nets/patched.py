"""Denoisers of waveforms whose body works on patches: stem, body, head, and a refinement at full rate.

A strided stem turns p samples into a token; what happens between tokens is the body's, state-space layers
(`state_space.py`) or attention (`PatchTransformer` here). The head turns each token into p samples of a few features,
and a short convolution that sees the noisy record again makes the output, so that no seams show between patches.

In the transformer each layer is

    x += a_1 attention((1 + s_1) norm(x) + b_1),     x += a_2 mlp((1 + s_2) norm(x) + b_2)

with s, b, a linear in the embedding of noise level and condition and 0 at the start (AdaLN-zero): the body begins as
the identity. Positions are rotary, so only distances count and a longer record than in training needs nothing new.

References:
    Peebles, Xie (2023). Scalable diffusion models with transformers. arXiv:2212.09748. Su et al. (2021). RoFormer.
    arXiv:2104.09864. Nie et al. (2023). A time series is worth 64 words. arXiv:2211.14730.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cohortloom.nets.conv1d import LevelEmbedding, rotate

__all__ = ["AttentionLayer", "PatchTransformer", "Patched"]


class Patched(nn.Module):
    """Denoiser on patches; same call as `UNet1d`.

    Args:
        n_channels: Channels that are denoised.
        layers: Body; each maps (tokens [record token feature], embedding) to tokens.
        width: Features of a token.
        patch: Samples per token.
        n_condition: Size of the condition vector (0: none).
        n_guides: Known channels at full rate.
        refine: Features at full rate.
        n_embedding: Size of the embedding of level and condition.
    """

    def __init__(
        self, n_channels: int, layers: Sequence[nn.Module], *, width: int, patch: int, n_condition: int, n_guides: int,
        refine: int = 16, n_embedding: int = 128,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patch = patch
        n_in = n_channels + n_guides
        self.embed = LevelEmbedding(n_embedding, n_condition)
        self.stem = nn.Conv1d(n_in, width, 2 * patch - 1, stride=patch, padding=patch - 1)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(width, patch * refine)
        self.fine = nn.Conv1d(refine + n_in, refine, 9, padding=4)
        self.out = nn.Conv1d(refine, n_channels, 9, padding=4)
        self.straight = nn.Conv1d(refine + n_in, n_channels, 1)
        for layer in (self.out, self.straight):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        z: Float[Tensor, "record channel sample"],
        level: Float[Tensor, "record"],
        condition: Float[Tensor, "record condition"] | None = None,
        guides: Float[Tensor, "record guide sample"] | None = None,
    ) -> Float[Tensor, "record channel sample"]:
        n = z.shape[-1]
        x = z if guides is None else torch.cat([z, guides], dim=1)
        x = nn.functional.pad(x, (0, -n % self.patch), mode="replicate")
        embedding = self.embed(level, condition)
        h = self.stem(x).transpose(1, 2)
        for layer in self.layers:
            h = layer(h, embedding)
        h = self.head(nn.functional.silu(h))
        h = h.reshape(len(h), -1, h.shape[2] // self.patch).transpose(1, 2)
        h = torch.cat([h, x], dim=1)
        return (self.out(nn.functional.silu(self.fine(h))) + self.straight(h))[..., :n]


class AttentionLayer(nn.Module):
    """Self-attention and a perceptron, both scaled, shifted and gated by the embedding.

    Attention is written out: the backward of the fused one is slow on a CPU.
    """

    def __init__(self, width: int, n_embedding: int, *, heads: int = 4) -> None:
        super().__init__()
        if width % heads or width // heads % 2:
            raise ValueError(f"width must be a multiple of {2 * heads}, {heads} heads of an even size")
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(n_embedding, 6 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def attend(self, x: Float[Tensor, "record token feature"]) -> Float[Tensor, "record token feature"]:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weight = (rotate(q) @ rotate(k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(dim=-1)
        return self.out((weight @ v).transpose(1, 2).reshape(b, n, c))

    def forward(self, x: Float[Tensor, "record token feature"], embedding: Tensor) -> Tensor:
        s1, b1, a1, s2, b2, a2 = self.film(embedding)[:, None].chunk(6, dim=2)
        x = x + a1 * self.attend(self.norm(x) * (1 + s1) + b1)
        return x + a2 * self.mlp(self.norm(x) * (1 + s2) + b2)


class PatchTransformer(Patched):
    """Transformer on patches."""

    def __init__(
        self, n_channels: int, *, width: int = 64, n_layers: int = 4, patch: int = 4, n_condition: int = 0,
        n_guides: int = 0, n_embedding: int = 128,
    ) -> None:  # fmt: skip
        layers = [AttentionLayer(width, n_embedding) for _ in range(n_layers)]
        super().__init__(n_channels, layers, width=width, patch=patch, n_condition=n_condition, n_guides=n_guides,
                         n_embedding=n_embedding)  # fmt: skip
