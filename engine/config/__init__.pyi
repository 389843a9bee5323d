from .config import Config as Config
from .config import read_base as read_base
from .config_dict import ConfigDict as ConfigDict
from .overrides import DictAction as DictAction
