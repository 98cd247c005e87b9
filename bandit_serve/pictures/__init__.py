"""Pictures as SVG and the pages that they stand in. They load nothing, run nothing, and follow the reader's theme."""
