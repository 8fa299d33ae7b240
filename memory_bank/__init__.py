"""Normal patches from hours of footage in bounded memory, searched for the nearest one.

`StreamingCoreset` keeps the rows while frames arrive and finishes as a `MemoryBank`, which finds
the nearest normal patch and says where it came from. `kcenter_greedy` is the reference that
`kcenter_select` reproduces far faster. Higher distance = more anomalous. Nothing here knows of
images, backbones or models: it works on float32 rows.
"""

from memory_bank.additions import Additions, Grown
from memory_bank.bank import Members, MemoryBank
from memory_bank.checkpoint import checkpoint_note, load_checkpoint, save_checkpoint
from memory_bank.coreset import StreamingCoreset
from memory_bank.coverage import Coverage
from memory_bank.errors import MemoryBankError
from memory_bank.index import EXACT, KINDS, Index, build_index, check_kind, recall
from memory_bank.kcenter import Selection, kcenter_greedy, kcenter_select
from memory_bank.merge import Forgotten, Merged, add_rows, forget_source, merge_banks
from memory_bank.origins import Origins
from memory_bank.parts import Part, PartMerger, merge_parts, part_of
from memory_bank.reweight import largest_reweighted, reweighted
from memory_bank.settings import CoresetConfig
from memory_bank.temporal import TemporalSearch

__all__ = [
    "EXACT",
    "KINDS",
    "Additions",
    "CoresetConfig",
    "Coverage",
    "Forgotten",
    "Grown",
    "Index",
    "Members",
    "MemoryBank",
    "MemoryBankError",
    "Merged",
    "Origins",
    "Part",
    "PartMerger",
    "Selection",
    "StreamingCoreset",
    "TemporalSearch",
    "add_rows",
    "build_index",
    "check_kind",
    "checkpoint_note",
    "forget_source",
    "kcenter_greedy",
    "kcenter_select",
    "largest_reweighted",
    "load_checkpoint",
    "merge_banks",
    "merge_parts",
    "part_of",
    "recall",
    "reweighted",
    "save_checkpoint",
]
