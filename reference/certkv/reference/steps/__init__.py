"""One step of the heads that share a KV head, under each policy."""
