"""File formats: tables, arrays, images, and the cache of what was decoded."""
