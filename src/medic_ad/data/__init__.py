"""Training data: samples, the registry of public sets, and the generator of lesions."""
