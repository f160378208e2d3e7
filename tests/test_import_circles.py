"""No module imports itself by way of others, imports for type checkers included."""

from __future__ import annotations

from graphlib import TopologicalSorter

import grimp


def test_the_imports_of_the_core_and_the_server_have_no_circle() -> None:
    graph = grimp.build_graph("mold_core", "mold_http", exclude_type_checking_imports=False, cache_dir=None)
    imports = {module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules}
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle
