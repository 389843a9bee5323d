from .installation import install as install
from .installation import read_config as read_config
