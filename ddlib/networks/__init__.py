"""Networks as functions of plain weights."""
