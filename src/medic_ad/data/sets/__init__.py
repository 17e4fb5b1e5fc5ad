"""Training data: one module a public data set, each with `samples(root)`."""
