"""A page per latent in the browser: from a small local server (``server``), or as files (``static``)."""
