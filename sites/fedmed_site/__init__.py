"""The site's side: the agent that owns a hospital's data, model state, keys and ledger."""
