"""Reading a config file and its bases."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainwright.engine.config.config_dict import ConfigDict, copy_containers, merge_into
from trainwright.engine.config.custom_imports import KEY as IMPORTS_KEY
from trainwright.engine.config.custom_imports import join_imports
from trainwright.engine.config.parse_python import BASE_KEY, Executed, PythonConfig, checked_bases
from trainwright.engine.config.paths import JSON_SUFFIX, PYTHON_SUFFIX, SUFFIXES, find_config, find_module
from trainwright.engine.config.python_syntax import BaseImport
from trainwright.engine.config.variables import (
    mark_base_variables,
    resolve_marks,
    substitute_environment,
    substitute_predefined,
)
from trainwright.engine.errors import ConfigFileError, Origin

DEPRECATION_KEY = "_deprecation_"
STYLES = (
    "a config and its bases must use the same style: either `_base_ = ...` and `type='Name'`, "
    "or `with read_base():` and imported classes"
)


class Reader:
    """A reader of one config and its bases.

    Args:
        predefined: replace ``{{ fileDirname }}`` and the other predefined variables.
        environment: replace ``{{ $NAME:default }}``.
        lazy_import: whether Python configs are in the pure-Python style; detected for each file if None.

    Attributes:
        env_variables: the environment variables that were used, with their values.
        texts: the name and text of each file, bases first.
        files: the path of each file, bases last.
    """

    def __init__(self, *, predefined: bool = True, environment: bool = True, lazy_import: bool | None = None) -> None:
        self.env_variables: dict[str, str] = {}
        self.texts: list[str] = []
        self.files: list[Path] = []
        self._predefined = predefined
        self._environment = environment
        self._lazy_import = lazy_import
        self._open: list[str] = []

    def read_file(self, file: Path, origin: Origin | None = None) -> ConfigDict:
        """Read a file given by its absolute path; see :meth:`read_text`."""
        return self.read_text(_load(file, origin), file, str(file), origin)

    def read_text(self, text: str, file: Path, name: str, origin: Origin | None = None) -> ConfigDict:
        """Read the text of a config.

        Args:
            text: contents of the file.
            file: path of the file; bases are relative to its folder, and its suffix determines the format.
            name: name of the file in origins and messages.
            origin: the key or statement that names this file as a base, if any.

        Raises:
            ConfigFileError: the config or one of its bases cannot be read.
        """
        with self._opened(name, file, origin):
            substituted = self._substitute(text, file, name)
            if file.suffix != PYTHON_SUFFIX:
                return self._read_data(substituted, text, file, name)
            python = PythonConfig(substituted, name)
            pure = python.is_pure if self._lazy_import is None else self._lazy_import
            if not pure:
                base = self._read_bases(python.bases(), file.parent)
                return self._inherit(python.execute(base=base).keys, base, text, name)
            if origin is not None and self._lazy_import is None:
                start = python.pure_origin()
                raise ConfigFileError("", f"the base is in the pure-Python style (see {start})", STYLES, origin)
            keys = self._run_pure(python, text, file, name, origin).keys
            return copy_containers(keys, keep_delete=False)  # type: ignore[no-any-return]  # a copy of the same kind

    def _read_data(self, substituted: str, text: str, file: Path, name: str) -> ConfigDict:
        from trainwright.engine.config import parse_data  # imports YAML, which Python configs do not need

        parse = parse_data.parse_json if file.suffix == JSON_SUFFIX else parse_data.parse_yaml
        child = parse(mark_base_variables(substituted, quoted=file.suffix == JSON_SUFFIX), name)
        place = child.origin(BASE_KEY) or Origin(name)
        base = self._read_bases(checked_bases(child.pop(BASE_KEY, []), [], place), file.parent)
        child = copy_containers(child)
        resolve_marks(child, base)
        return self._inherit(child, base, text, name)

    def _read_bases(self, bases: list[tuple[str, Origin]], folder: Path) -> ConfigDict:
        merged = ConfigDict()
        for name, place in bases:
            file, scope = find_config(name, folder, place)
            keys = self.read_file(file, place)
            if scope is not None:
                _set_scope(keys, scope)
            join_imports(merged, keys)
            if twice := keys.keys() & merged.keys() - {IMPORTS_KEY}:
                places = (f"{key}: {merged.origin(key)} and {keys.origin(key)}" for key in sorted(twice, key=str))
                hint = "\n".join([*places, "a key may be set by only one of several bases"])
                raise ConfigFileError("", f"two bases set the same {len(twice)} key(s)", hint, place)
            merged |= keys
        return merged

    def _inherit(self, child: ConfigDict, base: ConfigDict, text: str, name: str) -> ConfigDict:
        self.texts.append(f"{name}\n{text}")
        _warn_of_deprecation(child, name)
        join_imports(base, child)
        merge_into(base, child, strict=True)
        return base

    def _run_pure(self, python: PythonConfig, text: str, file: Path, name: str, origin: Origin | None) -> Executed:
        if python.assigns_base:
            raise ConfigFileError("", f"{name} assigns `_base_`", STYLES, origin)
        bases: list[ConfigDict] = []

        def import_base(statement: BaseImport) -> Executed:
            base = self._import_base(statement, file.parent)
            bases.append(base.keys)
            return base

        executed = python.execute(import_base=import_base)
        for base in reversed(bases):
            join_imports(base, executed.keys)
        self.texts.append(f"{name}\n{text}")
        _warn_of_deprecation(executed.keys, name)
        return executed

    def _import_base(self, statement: BaseImport, folder: Path) -> Executed:
        file = find_module(statement.module, statement.level, folder, statement.origin)
        name = str(file)
        text = _load(file, statement.origin)
        with self._opened(name, file, statement.origin):
            python = PythonConfig(self._substitute(text, file, name), name)
            return self._run_pure(python, text, file, name, statement.origin)

    def _substitute(self, text: str, file: Path, name: str) -> str:
        if self._predefined:
            text = substitute_predefined(text, file)
        if self._environment:
            text, used = substitute_environment(text, name)
            self.env_variables.update(used)
        return text

    @contextmanager
    def _opened(self, name: str, file: Path, origin: Origin | None) -> Iterator[None]:
        if name in self._open:
            chain = " → ".join([*self._open[self._open.index(name) :], name])
            raise ConfigFileError("", f"a config inherits from itself: {chain}", "", origin)
        self._open.append(name)
        self.files.append(file)
        try:
            yield
        finally:
            self._open.pop()


def check_format(suffix: str) -> str:
    """Return a file suffix if it is a known config format.

    Raises:
        ConfigFileError: the suffix is unknown.
    """
    if suffix not in SUFFIXES:
        raise ConfigFileError("", f"unknown config format {suffix!r}", f"must be one of {', '.join(SUFFIXES)}")
    return suffix


def _load(file: Path, origin: Origin | None) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigFileError("", f"{file} cannot be read: {error}", "", origin) from None


def _warn_of_deprecation(keys: ConfigDict, name: str) -> None:
    origin = keys.origin(DEPRECATION_KEY) or Origin(name)
    notice = keys.pop(DEPRECATION_KEY, None)
    if notice is None:
        return
    message = f"the config {name} will be removed"
    if "expected" in notice:
        message += f"; use {notice['expected']} instead"
    if "reference" in notice:
        message += f"; see {notice['reference']}"
    warnings.warn_explicit(message, DeprecationWarning, origin.file, origin.line)


def _set_scope(value: object, scope: str) -> None:
    """Set ``_scope_`` of each outermost dictionary with a ``type``, unless it is already set."""
    if isinstance(value, ConfigDict) and "type" in value:
        value.setdefault("_scope_", scope)
    elif isinstance(value, ConfigDict | list | tuple):
        for item in dict.values(value) if isinstance(value, ConfigDict) else value:
            _set_scope(item, scope)
