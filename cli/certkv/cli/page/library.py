"""Whether the plots can be drawn, found out before a long run starts."""

from __future__ import annotations

import logging

from certkv.reference import CertkvError, SettingError


class MissingLibraryError(CertkvError, ImportError):
    """A package that the command needs, and that certkv installs only on request, is not there."""


def require_matplotlib() -> None:
    """Make sure that matplotlib can be imported, and keep it from talking on standard error.

    Raises
    ------
    MissingLibraryError
        It is not installed, or not whole.
    SettingError
        What the user set for it, as in MPLBACKEND, is not valid.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # font caches and odd settings files are no news
    try:
        import matplotlib.backends.backend_svg  # noqa: F401
    except ImportError as error:
        raise MissingLibraryError(
            f"--report needs matplotlib: install certkv[report], e.g. pip install 'certkv[report]' ({error})"
        ) from error
    except ValueError as error:
        raise SettingError(f"--report needs matplotlib, which refuses its own settings: {error}") from error
