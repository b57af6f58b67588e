"""How far a segmentation can be trusted: signals of each case, the predicted Dice, and a verdict with its reasons.

`signals` collects the signals while a case is segmented, one module for each kind: `shape`, `entropy`, `views` and
`features`. `fitting` writes what is known of the training patients to the file of `quality_file`; `assessor` compares a
case with it, and `verdict` puts the findings into words.
"""
