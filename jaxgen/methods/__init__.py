"""Methods: one training algorithm a file, each a frozen dataclass of pure functions (see `jaxgen.core.method`)."""
