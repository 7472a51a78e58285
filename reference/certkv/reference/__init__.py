"""The executable specification of certified attention over a quantized KV cache (NumPy, mpmath, python-flint)."""

from certkv.reference.cache import Cache
from certkv.reference.certificate import Certificate, Status
from certkv.reference.errors import (
    CertkvError,
    CorruptionError,
    DTypeError,
    HostMissingError,
    InputError,
    NonFiniteError,
    SettingError,
    ShapeError,
)
from certkv.reference.policies import Budget, Naive, PaperPolicy, Policy
from certkv.reference.step import Step, decode

__all__ = [
    "Budget",
    "Cache",
    "Certificate",
    "CertkvError",
    "CorruptionError",
    "DTypeError",
    "HostMissingError",
    "InputError",
    "Naive",
    "NonFiniteError",
    "PaperPolicy",
    "Policy",
    "SettingError",
    "ShapeError",
    "Status",
    "Step",
    "decode",
]
