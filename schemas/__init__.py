"""The contract between stages, as data: one TOML file per table."""
