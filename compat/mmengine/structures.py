"""Names of ``mmengine.structures``."""

from trainwright.compat.mmengine.device import get_device
from trainwright.engine import BaseDataElement, InstanceData, LabelData, PixelData
