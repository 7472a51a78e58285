"""The kernel library (torch, Triton). It imports no other part of certkv."""

from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Certificate, Status
from certkv.fast.errors import (
    CapacityError,
    CaptureError,
    CertkvError,
    CorruptionError,
    DTypeError,
    HostMissingError,
    InputError,
    NeedsDenseError,
    NonFiniteError,
    OutOfMemoryError,
    PlanError,
    ReleasedError,
    SettingError,
    ShapeError,
)
from certkv.fast.ops import Decoded
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, Naive, PaperPolicy
from certkv.fast.step import Step, decode

__all__ = [
    "Budget",
    "CapacityError",
    "CaptureError",
    "Certificate",
    "CertkvError",
    "CorruptionError",
    "DTypeError",
    "Decoded",
    "HostMissingError",
    "InputError",
    "Naive",
    "NeedsDenseError",
    "NonFiniteError",
    "OutOfMemoryError",
    "PaperPolicy",
    "Plan",
    "PlanError",
    "ReleasedError",
    "SettingError",
    "ShapeError",
    "Status",
    "Step",
    "TieredCache",
    "decode",
    "plan",
]
