"""The cloud's side: ingest, second opinions, the store, analysis and report."""
