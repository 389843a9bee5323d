"""The config of an experiment."""

from argparse import ArgumentParser
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import deepcopy
from difflib import unified_diff
from pathlib import Path
from typing import Any, cast

from trainwright.engine.config.config_dict import ConfigDict, copy_containers, merge_into
from trainwright.engine.config.custom_imports import import_custom_modules
from trainwright.engine.config.dump import WIDTH, dump_config, format_python
from trainwright.engine.config.overrides import add_options
from trainwright.engine.config.paths import PYTHON_SUFFIX, find_config
from trainwright.engine.config.read import Reader, check_format
from trainwright.engine.errors import ConfigError, Origin

RESERVED_KEYS = ("filename", "text", "pretty_text", "env_variables")

State = tuple[ConfigDict, str | None, str, dict[str, str], bool]


class Config(MutableMapping[str, Any]):
    """The config of an experiment: a :class:`ConfigDict` and the file that it was read from.

    Keys are items and attributes: ``cfg["model"]`` is ``cfg.model``.

    Example:
        >>> cfg = Config.fromfile("configs/classification/lenet_fashion_mnist.py")
        >>> cfg.merge_from_dict({"train_dataloader.batch_size": 64})
        >>> cfg.train_dataloader.batch_size
        64

    Args:
        cfg_dict: the keys.
        cfg_text: text of the files that the config was read from.
        filename: the file that the config was read from.
        env_variables: the environment variables that the files use.
        format_python_code: wrap the lines of :attr:`pretty_text`; otherwise each top-level key is one line.

    Raises:
        TypeError: ``cfg_dict`` is not a dictionary.
        ConfigError: a key is one of ``filename``, ``text``, ``pretty_text``, ``env_variables``.
    """

    _cfg_dict: ConfigDict
    _filename: str | None
    _text: str
    _env_variables: dict[str, str]
    _format_python_code: bool

    def __init__(
        self,
        cfg_dict: Mapping[Any, Any] | None = None,
        cfg_text: str | None = None,
        filename: str | Path | None = None,
        env_variables: dict[str, str] | None = None,
        format_python_code: bool = True,
    ) -> None:
        if not isinstance(cfg_dict, dict | None):
            raise TypeError(f"cfg_dict must be a dict, not {type(cfg_dict).__name__}")
        keys = cfg_dict if isinstance(cfg_dict, ConfigDict) else ConfigDict(cfg_dict)
        for key in RESERVED_KEYS:
            if key in keys:
                raise ConfigError(key, "this name is reserved for an attribute of Config", "", keys.origin(key))
        file = None if filename is None else str(filename)
        self.__setstate__((keys, file, cfg_text or "", env_variables or {}, format_python_code))

    @staticmethod
    def fromfile(
        filename: str | Path,
        use_predefined_variables: bool = True,
        import_custom_modules: bool = True,
        use_environment_variables: bool = True,
        lazy_import: bool | None = None,
        format_python_code: bool = True,
    ) -> "Config":
        """Read a config file and its bases.

        Args:
            filename: a ``.py``, ``.yaml``, ``.yml`` or ``.json`` file, or ``package::path`` for a config of
                an installed package.
            use_predefined_variables: replace ``{{ fileDirname }}`` and the other predefined variables.
            import_custom_modules: import the modules in ``custom_imports``.
            use_environment_variables: replace ``{{ $NAME:default }}``.
            lazy_import: whether a Python file is in the pure-Python style; detected from its contents if None.
            format_python_code: see :class:`Config`.

        Raises:
            ConfigFileError: the file, or one of its bases, is missing or invalid.
            ConfigError: the config does not fit its bases, or a module in ``custom_imports`` cannot be imported.
        """
        file, _ = find_config(str(filename), Path.cwd())
        reader = Reader(
            predefined=use_predefined_variables, environment=use_environment_variables, lazy_import=lazy_import
        )
        keys = reader.read_file(file)
        name = str(file) if "::" in str(filename) else str(filename)
        return _finish(keys, reader, name, import_custom_modules, format_python_code)

    @staticmethod
    def fromstring(cfg_str: str, file_format: str) -> "Config":
        """Read a config from text, as if it were a file in the current folder.

        Args:
            cfg_str: the text.
            file_format: ``.py``, ``.yaml``, ``.yml`` or ``.json``.

        Raises:
            ConfigFileError: the text is invalid, or the format is unknown.
        """
        reader = Reader()
        keys = reader.read_text(cfg_str, Path.cwd() / f"config{check_format(file_format)}", "<string>")
        return _finish(keys, reader, None, True, True)

    @staticmethod
    def diff(cfg1: "str | Config", cfg2: "str | Config") -> str:
        """Compare the texts of two configs, or of two files.

        Returns:
            The lines that differ, as a unified diff; an empty string if the configs are equal.
        """
        one, two = (
            (Config.fromfile(cfg) if isinstance(cfg, str) else cfg).pretty_text.splitlines() for cfg in (cfg1, cfg2)
        )
        return "\n".join(unified_diff(one, two, lineterm=""))

    @staticmethod
    def auto_argparser(description: str | None = None) -> "tuple[ArgumentParser, Config]":
        """Read the config that the command line starts with, and make a parser with an option for each of its keys.

        Args:
            description: text for the help.

        Returns:
            The parser, whose options are None unless they are given, and the config.
        """
        parser = ArgumentParser(description=description, add_help=False)
        parser.add_argument("config", help="path of a config")
        cfg = Config.fromfile(parser.parse_known_args()[0].config)
        parser = ArgumentParser(parents=[parser], description=description)
        add_options(parser, cfg.to_dict())
        return parser, cfg

    @staticmethod
    def _merge_a_into_b(a: Mapping[str, Any], b: Mapping[str, Any], allow_list_keys: bool = False) -> ConfigDict:
        """Return ``b`` with ``a`` merged into it; scripts written for MMEngine call it. Neither is changed."""
        merged = ConfigDict({"inner": b})
        merge_into(merged, {"inner": a}, strict=True, list_keys=allow_list_keys)
        return cast(ConfigDict, merged["inner"])

    @property
    def filename(self) -> str | None:
        """The file that the config was read from."""
        return self._filename

    @property
    def text(self) -> str:
        """The name and text of each file that the config was read from, bases first."""
        return self._text

    @property
    def env_variables(self) -> dict[str, str]:
        """The environment variables that the files use, with their values."""
        return self._env_variables

    @property
    def pretty_text(self) -> str:
        """The whole config as Python text, which loads to the same config."""
        return format_python(self.to_dict(), WIDTH if self._format_python_code else None)

    def dump(self, file: str | Path | None = None) -> str | None:
        """Write the config to a file, or return its text.

        Args:
            file: a ``.py``, ``.yaml``, ``.yml`` or ``.json`` file. If None, the text is returned, in the
                format of the file that the config was read from.

        Raises:
            ConfigFileError: the suffix is unknown.
        """
        suffix = Path(file or self._filename or f"config{PYTHON_SUFFIX}").suffix
        text = dump_config(self.to_dict(), suffix, width=WIDTH if self._format_python_code else None)
        if file is None:
            return text
        Path(file).write_text(text, encoding="utf-8")
        return None

    def merge_from_dict(
        self, options: Mapping[str, Any], allow_list_keys: bool = True, origin: Origin | None = None
    ) -> None:
        """Merge options such as those of the command line.

        Args:
            options: values by dotted path: ``{"model.backbone.depth": 50, "train_pipeline.0.type": "Load"}``.
            allow_list_keys: interpret digits as indices of lists and tuples.
            origin: where the options were set: :data:`~trainwright.engine.config.overrides.COMMAND_LINE`.

        Raises:
            ConfigError: a path leads through a value that is not a dictionary, or a list index is invalid. The config
                is left unchanged.
        """
        merged = copy_containers(self._cfg_dict)
        for path, value in options.items():
            nested = value
            for key in reversed(path.split(".")):
                nested = {key: nested}
            merge_into(merged, nested, strict=True, list_keys=allow_list_keys, origin=origin)
        object.__setattr__(self, "_cfg_dict", merged)

    def to_dict(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and tuples; imported classes become their full dotted names."""
        return self._cfg_dict.to_dict()

    def origin(self, key: str) -> Origin | None:
        """Return where a top-level key was set, or None if not by a file or the command line."""
        return self._cfg_dict.origin(key)

    def copy(self) -> "Config":
        """Return a shallow copy."""
        keys, *rest = self.__getstate__()
        other = Config.__new__(Config)
        other.__setstate__(cast(State, (keys.copy(), *rest)))
        return other

    __copy__ = copy

    def __deepcopy__(self, memo: dict[int, Any]) -> "Config":
        other = Config.__new__(Config)
        memo[id(self)] = other
        other.__setstate__(deepcopy(self.__getstate__(), memo))
        return other

    def __getstate__(self) -> State:
        return self._cfg_dict, self._filename, self._text, self._env_variables, self._format_python_code

    def __setstate__(self, state: State) -> None:
        names = ("_cfg_dict", "_filename", "_text", "_env_variables", "_format_python_code")
        for name, value in zip(names, state):
            object.__setattr__(self, name, value)

    def __getitem__(self, key: str) -> Any:
        return self._cfg_dict[key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._cfg_dict[key] = value

    def __delitem__(self, key: str) -> None:
        del self._cfg_dict[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._cfg_dict)

    def __len__(self) -> int:
        return len(self._cfg_dict)

    def __contains__(self, key: object) -> bool:
        return key in self._cfg_dict

    def __getattr__(self, name: str) -> Any:
        if name == "_cfg_dict":  # while unpickling
            raise AttributeError(name)
        return getattr(self._cfg_dict, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(Config, name):
            raise AttributeError(f"{name!r} is an attribute of Config itself: write cfg[{name!r}] = ...")
        setattr(self._cfg_dict, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._cfg_dict, name)

    def __repr__(self) -> str:
        return f"Config (path: {self._filename}): {self._cfg_dict!r}"

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Merge mappings or key-value pairs recursively, like :meth:`ConfigDict.update`."""
        self._cfg_dict.update(*args, **kwargs)


@contextmanager
def read_base() -> Iterator[None]:
    """Mark the imports of the bases of a pure-Python config.

    The config reader detects this statement without executing it; elsewhere it is a no-op.

    Example:
        >>> with read_base():
        ...     from .._base_.default_runtime import *
    """
    yield


def _finish(
    keys: ConfigDict, reader: Reader, name: str | None, custom_modules: bool, format_python_code: bool
) -> Config:
    cfg = Config(keys, "\n".join(reader.texts), name, reader.env_variables, format_python_code)
    if custom_modules:
        import_custom_modules(keys, reader.files)
    return cfg
