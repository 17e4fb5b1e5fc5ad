"""Training: `medic-ad train base|detect|compare|explain`, one module per stage."""
