"""The questions that people ask of a capacity plan, one module each, all asked against the same outlook."""
