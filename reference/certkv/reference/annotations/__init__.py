"""Annotations: numbers measured when a block is encoded, rounded outward, that certificates rest on."""

from certkv.reference.annotations import keys, measure, values
from certkv.reference.annotations.keys import KeyAnnotations, annotate_keys
from certkv.reference.annotations.levels import finer_keys, finer_values, level_bytes_per_block
from certkv.reference.annotations.storage import annotation_bytes_per_token, device_bytes_per_token
from certkv.reference.annotations.values import ValueAnnotations, annotate_values

__all__ = [
    "KeyAnnotations",
    "ValueAnnotations",
    "annotate_keys",
    "annotate_values",
    "annotation_bytes_per_token",
    "device_bytes_per_token",
    "finer_keys",
    "finer_values",
    "keys",
    "level_bytes_per_block",
    "measure",
    "values",
]
