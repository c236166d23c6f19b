"""Text kernels over Arrow buffers: the Unicode tables, the scan of words and lines, and the statistics taken from it."""
