"""The papers' studies, repeatable on any autoencoders: stitching, meta-autoencoders, scaling laws."""
