"""Configs: text -> one checked ConfigDict (`files`) -> objects (`registry`, the only place where a name becomes a class)."""
