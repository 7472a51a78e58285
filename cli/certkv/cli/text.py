"""Text that comes from outside (file names, tensor names) made safe to print."""

from __future__ import annotations


def printable(text: str, encoding: str | None) -> str:
    """Return one line that can be encoded and that no terminal takes for a command.

    Parameters
    ----------
    text : str
    encoding : str or None
        Of the file it is printed to; None for ASCII.

    Returns
    -------
    str
        White space is contracted; what cannot be printed stands as an escape.
    """
    line = " ".join(text.split())
    line = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in line)
    encoding = encoding or "ascii"
    return line.encode(encoding, "backslashreplace").decode(encoding)
