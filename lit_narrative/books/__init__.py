"""Books in the public domain: found in catalogues, downloaded, read and cleaned."""
