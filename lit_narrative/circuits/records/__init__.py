"""Records: what each analysis leaves on disk, as types that are written and read; figures draw them."""
