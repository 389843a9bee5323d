"""Reproduction of MMEngine's randomness and arithmetic, bit by bit, so that published training curves are met.

It is off by default, since random streams that are carried from step to step, rather than derived, cannot be restored
in the middle of an epoch. With it:

- The generators of a process are seeded once; steps, evaluations and the initialization of weights draw from them in
  turn. Samples draw from them as well, or in a data worker from the generators of the worker, which are seeded once.
- The loader of an iteration-based loop is started when the loop is built. Later passes of an ``InfiniteSampler`` go on
  with its generator.
- No optimizer is fused, and TF32 and cuDNN's benchmark stay as PyTorch sets them, unless the config asks for more.
- Weights are initialized also where a checkpoint replaces them.
- Truncated normal distributions are drawn by the inverse of their cumulative distribution function.
- An iteration-based loop that is resumed loads the batches of earlier iterations and discards them.
- With ``update_buffers``, an averaged model averages shared tensors once for each of their names.
- A resumed run does not repeat a validation that was interrupted.
"""

_active = False


def reproduce_mmengine(active: bool = True) -> None:
    """Switch it on or off, for this process."""
    global _active
    _active = active


def reproduces_mmengine() -> bool:
    """Return whether it is on."""
    return _active
