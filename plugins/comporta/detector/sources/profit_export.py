"""What Profit (Nelogica) writes when a chart's bars are exported: ``WINFUT;30/12/2024;18:20:00;124.080;124.090;...``.

Semicolons part the fields, points the thousands, commas the decimals; the newest bar stands first. ``Volume`` is money,
``Quantidade`` are contracts: the contracts are taken. A file without its header is read by the order of the columns.
"""

from __future__ import annotations

from comporta.detector.sources.text import TextFile, TextFormat, decimal_comma

PROFIT_EXPORT = TextFormat(
    "a Profit export",
    decimal_comma,
    day_first=True,
    newest_first=True,
    columns=("ativo", "data", "hora", "abertura", "maximo", "minimo", "fechamento", "volume", "quantidade"),
)


def is_profit_export(file: TextFile) -> bool:
    """Fields are parted by semicolons; the day comes first in its dates, names are Portuguese, or decimals follow a comma."""
    brazilian = "abertura" in file.header or any("," in field for field in file.first)
    return file.delimiter == ";" and (brazilian or file.has_dates(r"\d\d/\d\d/\d{4}"))
