"""Names in ``metainfo``, such as classes: comparing those of datasets and checkpoints, adopting the same numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainwright.engine.errors import DataError, did_you_mean

_SHOWN = 10


def names_of(metainfo: Mapping[str, Any] | None, key: str) -> tuple[str, ...]:
    """Return the names in ``metainfo[key]``; an empty tuple if it has none."""
    names = (metainfo or {}).get(key)
    return tuple(map(str, names)) if isinstance(names, list | tuple) else ()


def adopt_numbers(dataset: Any, key: str, reference: Sequence[str], name: str, source: str) -> str:
    """Renumber the classes or keypoints of a dataset like those of ``reference``, if they have other numbers.

    Args:
        dataset: any dataset; one without these names is not changed.
        key: ``classes``, ``seg_classes`` or ``keypoints``.
        reference: the names in the order to adopt. A dataset may lack some classes, but no keypoints.
        name: what to call the dataset in messages.
        source: where the reference is from, for messages.

    Returns:
        A description of the change, or an empty string.

    Raises:
        DataError: the dataset has a name that is not in ``reference``, or cannot be renumbered.
    """
    names, reference = names_of(getattr(dataset, "metainfo", None), key), tuple(map(str, reference))
    if not names or not reference or names == reference:
        return ""
    if (key == "keypoints" and set(names) != set(reference)) or not set(names) <= set(reference):
        raise DataError(
            f"{name} and {source} have different {key}: {difference(names, reference)}\n"
            f"    use the same {key} in both: metainfo=dict({key}=(...))"
        )
    remap = getattr(dataset, f"remap_{key}", None)
    if remap is None or len(set(names)) < len(names) or len(set(reference)) < len(reference):
        reason = f"the dataset has no method remap_{key}()" if remap is None else "a name occurs twice"
        raise DataError(
            f"{name} has its {key} in another order than {source}, {_listed(names)} instead of {_listed(reference)}, "
            f"and they cannot be renumbered: {reason}\n"
            f"    list the {key} in the same order"
        )
    remap(reference)
    moved = [(name, old, reference.index(name)) for old, name in enumerate(names) if reference.index(name) != old]
    changes = _listed([f"{name} {old} → {new}" for name, old, new in moved]) or "the others do not occur"
    return f"{name}: its {key} are numbered as in {source} ({changes})"


def only_adds(names: Sequence[str], reference: Sequence[str]) -> bool:
    """Return whether names are those of a reference, in the same order, followed by others."""
    return len(names) > len(reference) > 0 and tuple(names[: len(reference)]) == tuple(reference)


def difference(names: Sequence[str], reference: Sequence[str]) -> str:
    """Describe the names that only one of two lists has."""
    only_here = [name for name in names if name not in reference]
    only_there = [name for name in reference if name not in names]
    parts = []
    if only_here:
        parts.append(f"only the former has {_listed(list(map(repr, only_here)))}")
        if len(only_here) == 1 and (hint := did_you_mean(only_here[0], only_there)):
            parts[-1] += f" ({hint})"
    if only_there:
        parts.append(f"only the latter has {_listed(list(map(repr, only_there)))}")
    return "; ".join(parts)


def keypoint_problems(metainfo: Mapping[str, Any]) -> list[str]:
    """Return the contradictions between the keypoints of a dataset and what its ``metainfo`` says about them."""
    number = len(names_of(metainfo, "keypoints"))
    flips, links, sigmas = (metainfo.get(key) for key in ("flip_indices", "skeleton_links", "sigmas"))
    problems = []
    if number and flips is not None and not _is_mirror(flips, number):
        problems.append(
            f"metainfo['flip_indices'] must contain the index of each of the {number} keypoints once, and swap pairs, "
            f"not {list(flips)}"
        )
    if number and sigmas is not None and len(sigmas) != number:
        problems.append(f"metainfo['sigmas'] has {len(sigmas)} values for {number} keypoints: list one per keypoint")
    links = list(links or ())
    if number and any(not 0 <= end < number for link in links for end in link):
        problems.append(f"metainfo['skeleton_links'] must contain indices from 0 to {number - 1}, not {links}")
    return problems


def shortened(names: Sequence[str]) -> str:
    """Return the first few names, for a message in which the others do not matter."""
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _is_mirror(indices: Sequence[int], number: int) -> bool:
    return sorted(indices) == list(range(number)) and all(
        indices[other] == index for index, other in enumerate(indices)
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
