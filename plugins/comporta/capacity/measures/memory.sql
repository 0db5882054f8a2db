-- Purpose:     bytes that this session holds for itself.
-- Requires:    pg_read_all_stats.
-- Locks:       none.
-- Transaction: no matter.

select sum(m.total_bytes)::bigint from pg_catalog.pg_backend_memory_contexts m
