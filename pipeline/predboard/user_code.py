"""Load an object from a user's own file, named FILE.py:NAME. It knows nothing of what the object is for.

The file is imported under a name of its own, so that it may be called like anything else, and its neighbours can be
imported while that goes on.
"""

import builtins
import contextlib
import hashlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from predboard.errors import InputError, first_line
from predboard.formatting import did_you_mean
from predboard.garbage import importing
from predboard.invocation import install_command
from predboard.near_paths import did_you_mean_path


@dataclass(frozen=True)
class UserObject:
    """An object from a user's file."""

    value: Any
    name: str
    """FILE.py:NAME without the folder."""
    code: str
    """Digest of the file."""
    folder: Path
    """Folder of the file; the file may import its neighbours."""
    kind: str = ""
    """`kind` of `load_object`; empty if the object is not from a file."""
    form: str = ""
    """`form` of `load_object`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Make another process read the file again: it could not import the file's module by its name."""
        if self.kind:
            return load_object, (str(self.folder / self.name), self.kind, self.form)
        return UserObject, (self.value, self.name, self.code, self.folder)


def names_an_object(spec: str) -> bool:
    """Return whether text has the form FILE.py:NAME."""
    file, _, name = spec.rpartition(":")
    return file.endswith(".py") and name.isidentifier()


def load_object(spec: str, kind: str, form: str) -> UserObject:
    """Import a file and return the object that it calls by a name.

    Args:
        spec: FILE.py:NAME, as the user gave it.
        kind: what the object is for: the name of the flag.
        form: what is expected, with an example, for messages.

    Raises InputError if there is no such file or name, or the file cannot be imported.
    """
    file, _, name = spec.rpartition(":")
    if not names_an_object(spec):
        raise InputError(f"--{kind} is {spec!r}; expected {form}")
    path = Path(file)
    if not path.is_file():
        raise InputError(f"no {kind} file {file}; expected {form}{did_you_mean_path(path, Path.is_file, ('.py',))}")
    module = _import_file(path, kind)
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if callable(v) and getattr(v, "__module__", "") == module.__name__]
        public = [n for n in own if not n.startswith("_")]
        near = did_you_mean(name, public)
        raise InputError(f"{file} has no {name!r}; it has: {', '.join(public) or 'no functions'}{near}")
    code = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
    return UserObject(getattr(module, name), f"{path.name}:{name}", code, path.parent, kind, form)


@contextlib.contextmanager
def import_path(folder: Path) -> Iterator[None]:
    """Let imports find the files in a folder."""
    entry = str(folder.resolve())
    sys.path.insert(0, entry)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's own code may change the path too
            sys.path.remove(entry)


def _import_file(path: Path, kind: str) -> ModuleType:
    """Import a file under a name of its own, with its folder on the path.

    A neighbour that it imports is never another folder's of the same name: Python would take that without a word.
    """
    name = f"predboard_{kind}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} cannot be imported as Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look a module up by its name
    vars(module)["__builtins__"] = vars(builtins) | {"__import__": _guard_imports(path)}
    try:
        with import_path(path.parent), _without_namesakes(path), importing():
            spec.loader.exec_module(module)
    except InputError:
        del sys.modules[name]
        raise
    except (Exception, SystemExit) as error:  # the user's own code: whatever it raises is shown, in one line
        del sys.modules[name]
        package = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        near = f"; if that is a package, install it here: {install_command(package)}" if package else ""
        raise InputError(f"{path} does not import: {type(error).__name__}: {first_line(error)}{near}") from error
    return module


@contextlib.contextmanager
def _without_namesakes(path: Path) -> Iterator[None]:
    """Hide loaded modules that are called like neighbours of a file and are none; raise InputError if it needs one."""
    with os.scandir(path.parent) as entries:
        neighbours = {entry.name.removesuffix(".py") for entry in entries} & sys.modules.keys()
    others = {name: place for name in neighbours if (place := _place_of_namesake(name, path.parent))}
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in others}
    try:
        yield
    finally:
        needed = sorted(others.keys() & sys.modules.keys())
        for name in [name for name in sys.modules if name.partition(".")[0] in others]:
            del sys.modules[name]
        sys.modules.update(hidden)
    if needed:
        raise InputError(_explain_namesake(path, needed[0], others[needed[0]]))


def _guard_imports(path: Path) -> Callable[..., Any]:
    """Return the import statement for a file's own functions: it raises InputError for a neighbour's namesake.

    A function that imports a neighbour when it is called would be given any loaded module of the name.
    """
    folder = path.parent.resolve()

    def import_(name: str, *arguments: Any, **options: Any) -> Any:
        first = name.partition(".")[0]
        if place := _place_of_namesake(first, folder):
            raise InputError(_explain_namesake(path, first, place))
        return builtins.__import__(name, *arguments, **options)

    return import_


def _explain_namesake(path: Path, name: str, place: Path) -> str:
    return f"{path} imports its neighbour {name}, but another {name} is in use, from {place}: rename one of them"


def _place_of_namesake(name: str, folder: Path) -> Path | None:
    """Return the folder of a loaded module of the user that is called like a file in another folder, and is not it.

    Modules of Python and of installed packages are none of the user. A folder without `__init__.py` is no file itself,
    and may lie in several folders at once: the modules in it count.
    """
    if name in sys.stdlib_module_names or name in ("__main__", "predboard"):
        return None
    loaded = sys.modules.get(name)
    is_folder = getattr(loaded, "__file__", None) is None and hasattr(loaded, "__path__")
    names = [other for other in list(sys.modules) if other.startswith(f"{name}.")] if is_folder else [name]
    for parts in (other.split(".") for other in names):
        file = getattr(sys.modules.get(".".join(parts)), "__file__", None)
        if file is None or {"site-packages", "dist-packages"} & set(Path(file).parts):
            continue
        neighbours = {folder / name, folder.joinpath(*parts)}
        possible = [path for n in neighbours for path in (n.with_name(f"{n.name}.py"), n / "__init__.py")]
        own = [path.resolve() for path in possible if path.is_file()]
        place = Path(file).resolve()
        if own and place not in own:
            return place.parents[len(parts) - (place.name != "__init__.py")]
    return None


def imported_files() -> list[tuple[Path, str]]:
    """Return the files that were imported so far, and what for, so that another process can `import_again`."""
    files = []
    for name, module in list(sys.modules.items()):
        if (match := re.fullmatch(r"predboard_([a-z]+)_.*", name)) and module.__file__:
            files.append((Path(module.__file__), match[1]))
    return files


def import_again(file: Path, kind: str) -> None:
    """Import a file that another process imported, so that pickled objects of its classes can be loaded."""
    _import_file(file, kind)
