"""What levels of other categories say of each level of a large one: log ratios of observed to expected counts, shrunk.

A column of seven hundred diagnoses hears of sex through a few hidden units, which learn frequent ties and no rare ones.
So each level of a static category, and of the few earlier categories of the row that say most, gets a table of what it
adds to the logit of each token: log r, where n patients have both and e are expected,

    n ~ Poisson(e r),    r ~ sum over k of w_k Gamma(a_k, a_k),    weights w of all cells of a category by EM,

and r is its posterior mean: most ratios are 1, few are far from it, and a count of 3 for 1 says little. Categories say
the same in part, so tables are fitted in turns, each on what the others expect (iterative proportional fitting). A
patient counts once for each of its tokens, with the row that had it first.

References:
    DuMouchel (1999). Bayesian data mining in large frequency tables. The American Statistician 53(3).
    Deming, Stephan (1940). On a least squares adjustment of a sampled frequency table. Ann. Math. Statist. 11(4).
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int

from cohortloom.nets.columnar import BESIDE, FEW, ColumnNet

__all__ = ["level_ties", "tell_large"]

PRIORS = np.array([0.3, 1.0, 5.0, 30.0, 1000.0])  # a_k
TURNS, ROUNDS = 2, 30
MOST_CELLS = 20_000_000  # patterns of levels times tokens
ROWS_AT_ONCE = 50_000
LEAST_GAIN = 0.02  # of the log-likelihood of a token by which a category of the row is worth hearing [nat]


@torch.no_grad()
def tell_large(
    net: ColumnNet,
    inputs: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    token: Int[np.ndarray, "row column"],
    subject: Int[np.ndarray, "row"],
    inside: Int[np.ndarray, "row"],
    blocks: Sequence[np.ndarray],
) -> None:
    """Put ties into a network.

    Args:
        inputs: Features and lookups of rows by number.
        token: Tokens, negative where there is no cell.
        subject: Of each row.
        inside: Rows to learn from.
        blocks: Places of each static category among the features.
    """
    for j in (j for j, shape in enumerate(net.columns) if shape.large):
        rows = inside[token[inside, j] >= 0]
        _, first = np.unique(np.stack([subject[rows], token[rows, j]]), axis=1, return_index=True)
        rows, size = rows[first], net.columns[j].n_tokens
        few = [c for c in range(j) if net.columns[c].kind == "category" and net.columns[c].n_tokens <= FEW]
        gains = {c: _gain(token[rows, c], token[rows, j], size) for c in few}
        beside = sorted((c for c in few if gains[c] >= LEAST_GAIN), key=lambda c: -gains[c])[:BESIDE]
        heard = [
            inputs(torch.from_numpy(part))[0][:, : net.n_told].numpy()
            for part in np.array_split(rows, max(1, -(-len(rows) // ROWS_AT_ONCE)))
        ]
        levels = [(token[rows, c, None] == np.arange(FEW)).astype(np.float32) for c in beside]
        places = [*blocks, *(net.n_told + FEW * k + np.arange(FEW) for k in range(len(beside)))]
        ties = level_ties(np.concatenate([np.concatenate(heard), *levels], axis=1), token[rows, j], size, places)
        getattr(net, f"told_{j}")[: len(ties)] = torch.from_numpy(ties)
        getattr(net, f"beside_{j}")[: len(beside)] = torch.tensor(beside, dtype=torch.long)


def _gain(level: Int[np.ndarray, "pair"], token: Int[np.ndarray, "pair"], n_tokens: int) -> float:
    """Mean log-likelihood that a token gains by what the level says of it [nat]."""
    known = level >= 0
    if not known.any():
        return 0.0
    count = np.zeros((FEW, n_tokens))
    np.add.at(count, (level[known], token[known]), 1.0)
    usual = count.sum(0) / count.sum()
    ratio = _shrunk(count, count.sum(1, keepdims=True) * usual)
    change = np.log(ratio) - np.log(np.maximum((ratio * usual).sum(1, keepdims=True), 1e-12))
    return float((count * change).sum() / len(level))


def level_ties(
    features: Float[np.ndarray, "pair feature"],
    token: Int[np.ndarray, "pair"],
    n_tokens: int,
    blocks: Sequence[np.ndarray],
) -> Float[np.ndarray, "feature token"]:
    """What each feature adds to the logit of each token.

    Args:
        features: What is known of a patient who has the token, once for each of its tokens.
        token: The token.
        n_tokens: Number of tokens.
        blocks: Places of each category among the features: 1 for its level, else 0.
    """
    out = np.zeros((features.shape[1], n_tokens), np.float32)
    places = np.concatenate([np.zeros(0, np.int64), *blocks])
    if not len(places) or not len(token):
        return out
    step = -(-len(token) * n_tokens // MOST_CELLS)
    at, token = features[::step, places], token[::step]
    pattern, which = np.unique(at, axis=0, return_inverse=True)
    count = np.zeros((len(pattern), n_tokens))
    np.add.at(count, (which.ravel(), token), 1.0)
    usual, size = np.log(count.sum(0) + 1e-3), count.sum(1, keepdims=True)
    ties = np.zeros((len(places), n_tokens))
    starts = np.cumsum([0, *(len(block) for block in blocks)])
    for _ in range(TURNS):
        for low, high in pairwise(starts):
            logit = usual + pattern @ ties
            share = np.exp(logit - logit.max(1, keepdims=True))
            share *= size / share.sum(1, keepdims=True)
            mine = pattern[:, low:high].T
            seen, expected = mine @ count, mine @ share
            ties[low:high] += np.log(_shrunk(seen, expected))
    out[places] = ties
    return out


def _shrunk(seen: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """Posterior mean of the ratio of each cell."""
    from scipy.special import gammaln  # heavy

    n, e = seen[..., None], np.maximum(expected[..., None], 1e-6)
    likelihood = gammaln(n + PRIORS) - gammaln(PRIORS) + PRIORS * np.log(PRIORS / (e + PRIORS))
    likelihood += n * np.log(e / (e + PRIORS))
    likelihood = np.exp(likelihood - likelihood.max(-1, keepdims=True))
    weight = np.full(len(PRIORS), 1 / len(PRIORS))
    for _ in range(ROUNDS):
        share = likelihood * weight
        share /= share.sum(-1, keepdims=True)
        weight = share.reshape(-1, len(PRIORS)).mean(0)
    return (share * (n + PRIORS) / (e + PRIORS)).sum(-1)
