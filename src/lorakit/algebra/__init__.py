"""Algebra of adapters: combine, subtract, resize and extract, each with its measured residuals.

It computes on adapters and bases alone, with numpy; it knows no files, formats or engines.
"""

from lorakit.algebra.combine import combine as combine
from lorakit.algebra.combine import subtract as subtract
from lorakit.algebra.extract import extract as extract
from lorakit.algebra.report import ModuleResidual as ModuleResidual
from lorakit.algebra.report import ResidualReport as ResidualReport
from lorakit.algebra.resize import resize as resize
