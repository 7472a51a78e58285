"""The kernel library (torch, Triton). It imports no other part of certkv."""

from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Certificate, Status
from certkv.fast.errors import (
    CapacityError,
    CertkvError,
    CorruptionError,
    DTypeError,
    HostMissingError,
    InputError,
    NeedsDenseError,
    NonFiniteError,
    PlanError,
    SettingError,
    ShapeError,
)
from certkv.fast.plan import Plan, plan
from certkv.fast.policies import Budget, Naive, PaperPolicy
from certkv.fast.step import Step, decode

__all__ = [
    "Budget",
    "CapacityError",
    "Certificate",
    "CertkvError",
    "CorruptionError",
    "DTypeError",
    "HostMissingError",
    "InputError",
    "Naive",
    "NeedsDenseError",
    "NonFiniteError",
    "PaperPolicy",
    "Plan",
    "PlanError",
    "SettingError",
    "ShapeError",
    "Status",
    "Step",
    "TieredCache",
    "decode",
    "plan",
]
