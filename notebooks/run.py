"""Execute every notebook beside this file in a folder of its own; ends with status 1 where a cell fails.

With --update the outputs are kept in the notebooks; without, nothing in the repository changes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

HERE = Path(__file__).resolve().parent
#: Seconds that one cell may take on a busy machine.
CELL_TIMEOUT_S = 600


def execute(path: Path, work: Path) -> nbformat.NotebookNode:
    """The notebook with the outputs of a run in `work`."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        kernel_name="python3",
        resources={"metadata": {"path": str(work)}},
        # Times of execution would change the file at every run.
        record_timing=False,
        coalesce_streams=True,
    )
    client.execute()
    notebook.metadata.pop("widgets", None)
    return notebook


def main() -> int:
    """Execute them all; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--update", action="store_true", help="write the outputs into the notebooks")
    options = parser.parse_args()
    # The kernel is another process: it finds the checkout whether or not the package is installed.
    paths = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    failed = 0
    for path in sorted(HERE.glob("*.ipynb")):
        begin = time.perf_counter()
        with TemporaryDirectory(prefix="anomaly-notebook-") as work:
            os.environ["ANOMALY_CACHE"] = str(Path(work) / "cache")
            try:
                notebook = execute(path, Path(work))
            except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
                print(f"{path.name}: {error}", file=sys.stderr)
                failed += 1
                continue
        if options.update:
            nbformat.write(notebook, path)
        print(f"{path.name}: executed in {time.perf_counter() - begin:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
