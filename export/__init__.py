"""A detector's branch as a portable graph, and the runtimes that it runs in.

`export.onnx` makes graphs and needs torch; everything else runs without it. Nothing here knows of videos, model
folders or thresholds: plain arrays and torch modules go in, files and arrays come out.
"""

from export.bank import bank_inputs
from export.errors import (
    DeviceMissingError,
    EngineError,
    ExportError,
    MemoryShortError,
    RuntimeMissingError,
    UnsupportedError,
)
from export.memory import available_bytes, check_room, frame_bytes, search_bytes
from export.nvidia import nvidia_facts
from export.parity import MAP_FACTOR, TOLERANCE, Parity, compare, map_difference, parting
from export.runtime import ENDINGS, PRECISIONS, QUANTISED, Graph, check_runtime, installed, open_graph

__all__ = [
    "ENDINGS",
    "MAP_FACTOR",
    "PRECISIONS",
    "QUANTISED",
    "TOLERANCE",
    "DeviceMissingError",
    "EngineError",
    "ExportError",
    "Graph",
    "MemoryShortError",
    "Parity",
    "RuntimeMissingError",
    "UnsupportedError",
    "available_bytes",
    "bank_inputs",
    "check_room",
    "check_runtime",
    "compare",
    "frame_bytes",
    "installed",
    "map_difference",
    "nvidia_facts",
    "open_graph",
    "parting",
    "search_bytes",
]
