"""Regressors and networks of others before they are models: read from their files, and seen to be what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lunarray.errors import MissingDependencyError, ModelError, needs


def require_method(thing: Any, method: str, where: str, wanted: str) -> None:
    """Refuse what lacks the method by which it would be used; a class has the method, and is no object yet."""
    if isinstance(thing, type):
        what = f"the class {thing.__name__} itself"
    elif not callable(getattr(thing, method, None)):
        what = f"a {type(thing).__name__}"
    else:
        return
    raise ModelError(f"{what} has no {method}() to call", where=where, remedy=f"Give {wanted}")


def read_regressor(path: Path, trusted: bool) -> Any:
    """Read a regressor from a file of skops or, where the user vouches for it, of joblib or pickle."""
    try:
        if path.suffix == ".skops":
            try:
                import skops.io
            except ImportError:
                raise MissingDependencyError(
                    "the file is one of skops, which is not installed",
                    where=path,
                    remedy="Install it with: pip install skops",
                ) from None
            return skops.io.load(path)
        if not trusted:
            raise ModelError(
                "a pickle can run any code when it is read",
                where=path,
                remedy="Give trusted=True if the file is your own, or save the regressor with skops",
            )
        with needs("sklearn", f"the regressor {path.name}"):
            import joblib

            return joblib.load(path)
    except (ModelError, MissingDependencyError):
        raise
    except Exception as error:  # whatever the objects within raise
        raise ModelError(
            f"no regressor can be read ({type(error).__name__}: {error})",
            where=path,
            remedy="Save it anew with the scikit-learn that is installed here",
        ) from error
