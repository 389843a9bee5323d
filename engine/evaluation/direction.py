"""Whether higher or lower is better for a metric, by its class or its name."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from trainwright.engine.errors import ConfigError, Origin

TRAINING = "train/"
"""How the names of scalars of the training begin."""
_LESS = frozenset([
    "loss", "losses", "error", "errors", "err", "mae", "mse", "rmse", "rmsle", "msle", "mape", "smape", "wmape",
    "nrmse", "medae", "nll", "perplexity", "ppl", "entropy", "fid", "kid", "lpips", "wer", "cer", "epe", "aepe",
    "ece", "mce", "brier", "divergence", "kl", "kld", "distance", "chamfer", "hausdorff", "emd", "mpjpe", "nme",
    "ade", "fde", "ate", "rpe", "hter", "eer", "fpr", "fnr", "frr", "deviation", "absrel", "sqrel",
])  # fmt: skip
_GREATER = frozenset([
    "acc", "macc", "aacc", "oacc", "accuracy", "top", "auc", "auroc", "aupr", "auprc", "ap", "map", "ar", "mar",
    "iou", "miou", "fwiou", "giou", "dice", "mdice", "precision", "mprecision", "recall", "mrecall", "f", "mf",
    "fscore", "mfscore", "fbeta", "pq", "psnr", "ssim", "pck", "pckh", "oks", "r", "bleu", "rouge", "meteor",
    "cider", "mcc", "kappa", "ndcg", "mrr", "hits", "hota", "mota", "motp", "idf", "sensitivity", "specificity",
    "nds", "jaccard", "tpr", "tnr", "hmean",
])  # fmt: skip
_NEEDS_NUMBER = frozenset(["f", "mf", "r", "idf"])  # F1, R2


def higher_is_better(name: str, metrics: Iterable[Any] = ()) -> bool | None:
    """Return whether higher is better for a result, by the metrics or by words in its full name; None if unknown."""
    declared = None if name.startswith(TRAINING) else declared_direction(name, metrics)
    return direction_of_name(name) if declared is None else declared


def unknown_direction(name: str, path: str, origin: Origin | None = None) -> ConfigError:
    """Return the error for a result for which :func:`higher_is_better` is unknown."""
    return ConfigError(
        f"{path}.rule",
        f"cannot infer the rule for key {name!r} from the metrics or from a word in it",
        "set rule='greater' or rule='less', or higher_is_better in the class of the metric",
        origin,
    )


def declared_direction(name: str, metrics: Iterable[Any]) -> bool | None:
    """Return whether higher is better for a result according to the metrics, or None if unspecified."""
    for metric in metrics:
        prefix = getattr(metric, "prefix", None)
        if prefix and not name.startswith(f"{prefix}/"):
            continue
        own_name = name[len(prefix) + 1 :] if prefix else name
        better = getattr(metric, "higher_is_better", None)
        if isinstance(better, Mapping):
            better = better.get(own_name)
        elif not prefix and (own_name == "loss" or own_name.startswith("loss_")):
            continue  # a loss of the loop (with_loss=True), not of a metric without prefix
        if better is not None:
            return bool(better)
    return None


def direction_of_name(name: str) -> bool | None:
    """Return whether higher is better by the words in a name, errors and losses first; None if unknown."""
    words = {word for piece in re.split(r"[^A-Za-z0-9]+", name) for word in _words(piece)}
    if words & _LESS:
        return False
    return True if words & _GREATER else None


def _words(piece: str) -> set[str]:
    """Return a part of a name and the words in it by capitalization, in lower case without trailing digits."""
    words = set()
    for word in (piece, *re.findall(r"m?IoU|[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", piece)):
        bare = word.rstrip("0123456789").lower()
        if bare != word.lower() or bare not in _NEEDS_NUMBER:
            words.add(bare)
    return words
