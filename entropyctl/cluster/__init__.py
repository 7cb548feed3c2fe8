"""Work that is spread over the machines of a Ray cluster; nothing here is imported without `--runner ray`."""
