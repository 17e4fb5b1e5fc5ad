"""Evaluation: what MODEL_CARD.md says of the bundled model, one module a part of the card."""
