"""Self-contained HTML pages: no network, no scripts from elsewhere, every name escaped."""
