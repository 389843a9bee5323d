"""``mmengine.config``."""

from trainwright.engine import Config, ConfigDict, DictAction, read_base

BASE_KEY = "_base_"
DELETE_KEY = "_delete_"
DEPRECATION_KEY = "_deprecation_"
RESERVED_KEYS = ["filename", "text", "pretty_text", "env_variables"]
