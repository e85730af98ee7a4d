"""Runs the code that is shown on Markdown pages and in notebooks."""

import json
import re

PYTHON = re.compile(r"```python\n(.*?)```", re.DOTALL)  # and not "```python no-run"
# To other files of the repository, without a place within them.
LINKS = re.compile(r"\]\((?!http)([^)#]+)[^)]*\)")


def run_code(page):
    """Executes the Python blocks of a page in order, and returns the names that they define."""
    scope = {}
    for block in PYTHON.finditer(page.read_text()):
        # Errors name the line of the page.
        lines = page.read_text().count("\n", 0, block.start()) + 1
        exec(compile("\n" * lines + block[1], str(page), "exec"), scope)
    return scope


def run_notebook(notebook, replaced, scope):
    """Executes the code cells of a notebook in order, in a scope; {old: new} are replaced."""
    cells = json.loads(notebook.read_text())["cells"]
    for number, cell in enumerate(cells):
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            for old, new in replaced.items():
                text = text.replace(old, new)
            exec(compile(text, f"{notebook}, cell {number}", "exec"), scope)
    return scope
