"""The notebook runs from top to bottom, in a folder of its own."""

import os
import shutil

import nbformat
import pytest
from nbclient import NotebookClient

from src.config import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebook_runs(path, tmp_path, monkeypatch):
    """With fewer and smaller photos than a reader gets."""
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    copy = shutil.copy(path, tmp_path)
    notebook = nbformat.read(copy, as_version=4)
    quick = '"data.num_workers=0", "preprocess.image_size=64", "trainer.max_epochs=2"'
    small = {'"count=200", "width=320", "height=240"': '"count=60", "width=64", "height=64"',
             '"data.num_workers=0"': quick}  # fmt: skip
    for cell in notebook.cells:
        for given, less in small.items():
            cell.source = cell.source.replace(given, less)
    resources = {"metadata": {"path": tmp_path}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    run = next((tmp_path / "outputs" / "dual_head").iterdir())
    assert (run / "report.html").is_file()
    printed = [out.get("text", "") for cell in notebook.cells for out in cell.get("outputs", [])]
    assert any(text.startswith("predicted ") for text in printed)
