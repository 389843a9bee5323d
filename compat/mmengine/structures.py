"""Names of ``mmengine.structures``."""

from typing import Any

import numpy as np
from torch import Tensor

from trainwright.compat.mmengine.device import get_device
from trainwright.engine import BaseDataElement, InstanceData, LabelData, PixelData

IndexType = str | slice | int | list[Any] | Tensor | np.ndarray
