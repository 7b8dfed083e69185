"""Run notebooks from the first cell to the last: python notebooks/run.py [--tiny] [--write] FILE ...

Each runs in a new folder, with this clone as the repository that its first cell clones, and with this Python's packages:
its pip installs nothing. A line with `!` whose command fails ends the run, where Jupyter would go on.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

CLONE = Path(__file__).resolve().parents[1]
TIMEOUT = 3600  # seconds for a cell
LARGEST = 400_000  # bytes of a notebook with its pictures

TINY = (
    (r"(--config=\w+)", r"\1:tiny"),
    (r" --config\.steps=\d+", ""),
    ("--config.data.path=", "--config.data=folder --config.data.size=8 --config.data.batch=8 --config.data.path="),
)  # the tiny forms have data of their own

STRICT = """
def _strict(shell, system):
    def call(command):
        system(command)
        if code := shell.user_ns["_exit_code"]:
            raise RuntimeError(f"exit code {code} of: {command}")
    shell.system = call
_strict(get_ipython(), get_ipython().system)
"""


def environment() -> dict[str, str]:
    """This Python first; pip only looks whether what the notebook asks for is there."""
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0", "PIP_ROOT_USER_ACTION": "ignore",
    }  # fmt: skip


def prepare(notebook: nbformat.NotebookNode, tiny: bool) -> nbformat.NotebookNode:
    """A copy that clones from here, is strict, and whose configs are the tiny ones, if asked for."""
    ready = nbformat.from_dict(notebook)
    for cell in ready.cells:
        cell.source = cell.source.replace('REPO = ""', f'REPO = "{CLONE}"')
        for pattern, short in TINY if tiny else ():
            cell.source = re.sub(pattern, short, cell.source)
    ready.cells.insert(0, nbformat.v4.new_code_cell(STRICT))
    return ready


def outputs(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """What a cell showed, as it looks at the end: without colours, lines written over, and a second copy of a picture."""
    for output in cell.outputs:
        if "text" in output:
            text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output.text).replace("\r\n", "\n")
            output.text = re.sub(r"[^\n]*\r", "", text)
        if output.output_type == "execute_result":
            output.execution_count = None
        if "image/png" in output.get("data", {}):
            output.data.pop("image/jpeg", None)
    return cell.outputs


def run(path: Path, tiny: bool = False, write: bool = False) -> None:
    """Run one; a RuntimeError with the output of the cell that failed. `write`: keep the outputs in the file."""
    notebook = nbformat.read(path, as_version=4)
    ready = prepare(notebook, tiny)
    env = environment() | ({"JAXGEN_CACHE": "cache"} if write else {})  # as on a machine that has run nothing before
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(ready, timeout=TIMEOUT, coalesce_streams=True, resources={"metadata": {"path": folder}})
        try:
            client.execute(env=env, cwd=folder)
        except (CellExecutionError, CellTimeoutError) as error:
            raise RuntimeError(f"{path.name}: {error}") from None
    if write:
        for cell, done in zip(notebook.cells, ready.cells[1:], strict=True):
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = outputs(done), None
        path.write_text(checked(path.name, nbformat.writes(notebook) + "\n"))


def checked(name: str, text: str) -> str:
    """The text of a notebook that may be committed: small, and its outputs name no folder of this machine."""
    for place in (CLONE, Path.home(), tempfile.gettempdir()):
        if f"{place}/" in text:
            raise RuntimeError(f"{name}: an output names {place}")
    if len(text) > LARGEST:
        raise RuntimeError(f"{name}: {len(text):,} bytes with its pictures, more than {LARGEST:,}")
    return text


def main() -> None:
    """The command."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("files", nargs="+", type=Path, metavar="FILE")
    p.add_argument("--tiny", action="store_true", help="every config in its tiny form: seconds on a CPU")
    p.add_argument("--write", action="store_true", help="keep what the cells show in the file")
    args = p.parse_args()
    for path in args.files:
        try:
            run(path, args.tiny, args.write)
        except RuntimeError as error:
            sys.exit(f"error: {error}")
        print(f"{path.name} runs")


if __name__ == "__main__":
    main()
