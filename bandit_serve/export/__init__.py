"""Export: an experiment's log as rows, one a decision, with its rewards beside it, in files that others read.

`reading` reads the log, `spool` keeps on disk what waits for its other half, `rows` joins decisions with their rewards,
`tables` makes columns of them, and `once` and `follow` write files.
"""
