"""How far drawn courses are from a real one in their short-time spectra, as a proper score.

    y(x)   = log(|STFT(x)| + 1e-3), Hann windows of a quarter, a half and the whole of the course
    score  = E|y(real) - y(a)| - E|y(a) - y(b)| / 2          a, b: two draws, mean over frames and frequencies

A distance |y(real) - y(a)| alone is smallest for a course whose spectrum does not vary at all, which no noise has; with
the second term (the continuous ranked probability score of every frequency) it is smallest, on average, where draws
have the law of the real ones.

References:
    Gneiting, Raftery (2007). Strictly proper scoring rules. JASA 102:359.
    Yamamoto et al. (2020). Parallel WaveGAN (spectra at several resolutions). arXiv:1910.11480.
"""

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["SHORTEST", "log_spectra", "spectral_score"]

#: Shortest course with a spectrum worth the name [step].
SHORTEST = 16
FLOOR = 1e-3


def log_spectra(x: Float[Tensor, "course step column"]) -> list[Float[Tensor, "course column frame frequency"]]:
    """y(x) for each size of window; white noise of unit variance has |STFT| near 1."""
    found, steps = [], x.shape[1]
    for size in sorted({max(8, steps // 4), max(8, steps // 2), steps}):
        window = torch.hann_window(size + 2, periodic=False)[1:-1]
        frames = x.transpose(1, 2).unfold(2, size, max(1, size // 2)) * (window / window.norm())
        found.append((torch.fft.rfft(frames).abs() + FLOOR).log())
    return found


def spectral_score(
    real: Float[Tensor, "course step column"], a: Float[Tensor, "course step column"],
    b: Float[Tensor, "course step column"],
) -> Float[Tensor, "course"]:  # fmt: skip
    """The score above of two draws for each real course, mean over sizes of windows and columns."""
    total = []
    for x, y, z in zip(*map(log_spectra, (real, a, b))):
        each = 0.5 * ((x - y).abs() + (x - z).abs() - (y - z).abs())
        total.append(each.flatten(1).mean(1))
    return torch.stack(total).mean(0)
