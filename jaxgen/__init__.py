"""jaxgen: image generation in JAX/Flax, every family in one house."""

__version__ = "0.1.0"
