"""Built-in footage: a camera over a conveyor, drawn from a seed, with exact labels and masks.

`plan_clip(seed, duration_s, ["scratch"])` settles what a clip shows, `render_clip(clip)` yields its frames
as (image, time_s, mask), `write_footage(folder)` writes MP4 files, label CSVs and packed masks.
"""

from anomaly.conveyor.clips import Clip, ClipLabel
from anomaly.conveyor.faults import KINDS, MOTION_KINDS, Fault, PlannedFault
from anomaly.conveyor.footage import ConveyorFootage, write_footage
from anomaly.conveyor.planning import plan_clip
from anomaly.conveyor.render import render_clip
from anomaly.conveyor.scene import SceneConfig
from anomaly.conveyor.short_clips import write_short_clips

__all__ = [
    "KINDS",
    "MOTION_KINDS",
    "Clip",
    "ClipLabel",
    "ConveyorFootage",
    "Fault",
    "PlannedFault",
    "SceneConfig",
    "plan_clip",
    "render_clip",
    "write_footage",
    "write_short_clips",
]
