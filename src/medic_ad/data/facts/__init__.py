"""Training data: facts of the public data sets, by body part; imports nothing heavy."""
