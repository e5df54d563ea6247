"""The documentation as a site: ``make site`` builds it into build/site from these pages and from the code."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import sim  # noqa: E402
from sim.cli import COMMANDS  # noqa: E402

project = "fpswitch"
author = "The fpswitch developers"
copyright = author
release = version = sim.__version__
html_title = f"fpswitch {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "from_code"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # links to files of the repository, such as notebooks

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"light_css_variables": {"font-stack--monospace": "ui-monospace, Menlo, Consolas, monospace"}}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"

man_pages = [
    (f"reference/commands/fpswitch-{name}", f"fpswitch-{name}", line.rstrip("."), [], 1)
    for name, (_, line) in COMMANDS.items()
]
