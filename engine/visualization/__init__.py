"""Drawing, and backends for images, scalars and configs."""
