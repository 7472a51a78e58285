"""A parser whose complaints are one line, like every other error of the command."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

from certkv.reference import SettingError


class Parser(argparse.ArgumentParser):
    """`argparse` that raises instead of printing its usage and leaving."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with the arguments.

        Raises
        ------
        SettingError
        """
        raise SettingError(f"{message}; see {self.prog} --help")


if TYPE_CHECKING:  # subscriptable for the type checker alone
    Subparsers = argparse._SubParsersAction[Parser]
