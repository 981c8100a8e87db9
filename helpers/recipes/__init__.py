"""Training recipes whose runs over many seeds are recorded in ``data/results/``, a module a chapter.

A recipe trains once for one seed and returns the history; its last row holds the accuracies.
``make results`` runs what is missing. Chapters show the same recipes step by step. Importing this
package registers all of them in ``helpers.results.RECIPES``.
"""

from importlib import import_module
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
