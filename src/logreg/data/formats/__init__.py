"""File formats: tables, named arrays, images, and the cache of computed tensors."""
