"""The coordinator's side: rounds, aggregation, consolidation and checkpoints."""
