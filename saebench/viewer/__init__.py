"""A page per latent in the browser: from a small local server, or as files."""

from saebench.viewer.content import Content
from saebench.viewer.server import serve
from saebench.viewer.static import write_static

__all__ = ["Content", "serve", "write_static"]
