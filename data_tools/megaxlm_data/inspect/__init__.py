"""`megaxlm data inspect`: what a data set holds, as tables, as JSON, and as a page with plots.

The index alone gives the tables (`report`, `table`). The page (`page`) also reads every shard's
list offsets and document ids (`lengths`, `overlap`) and has plots by matplotlib (`plots`).
"""

from megaxlm_data.inspect.report import InspectReport, inspect
from megaxlm_data.inspect.table import render

__all__ = ["InspectReport", "inspect", "render"]
