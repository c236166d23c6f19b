"""Text kernels over Arrow buffers: Unicode tables, the scan of words and lines, statistics of both."""
