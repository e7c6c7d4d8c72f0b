"""Distances between two sets of logits and the perplexity rule, in float64."""
import numpy as np


def log_softmax(logits: np.ndarray) -> np.ndarray:
    x = logits.astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def mean_kl(reference: np.ndarray, logits: np.ndarray) -> float:
    """Mean over tokens of KL(softmax(reference) || softmax(logits)); both [n_tokens, vocab]."""
    p, q = log_softmax(reference), log_softmax(logits)
    return float((np.exp(p) * (p - q)).sum(axis=-1).mean())


def distances(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Of each token's logits from the reference's, relative: |logits - reference| / |reference|, [n_tokens]."""
    reference = reference.astype(np.float64)
    return np.linalg.norm(logits - reference, axis=-1) / np.linalg.norm(reference, axis=-1)


def top1_agreement(reference: np.ndarray, logits: np.ndarray) -> float:
    """Share of the tokens at which both have the same most likely token."""
    return float((reference.argmax(axis=-1) == logits.argmax(axis=-1)).mean())


def windows(tokens: list[int], n_ctx: int) -> list[list[int]]:
    """Whole windows of n_ctx tokens, as llama.cpp's perplexity cuts a text; the rest is left out."""
    return [tokens[i:i + n_ctx] for i in range(0, len(tokens) - n_ctx + 1, n_ctx)]


def perplexity(scores: list[list[float]]) -> float:
    """exp of the mean negative log-probability over the second half of every window.

    scores[w][i]: natural-log probability of token i+1 of window w after tokens 0..i. Scored are the tokens
    from n_ctx/2 + 1 on, which have at least half a window before them.
    """
    scored = [s for window in scores for s in window[(len(window) + 1) // 2:]]
    return float(np.exp(-np.mean(scored)))
