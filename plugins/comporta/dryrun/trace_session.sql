-- Purpose:     settings of the lock trace's own session: nothing may cancel it, nothing of it is logged or sped up by JIT.
-- Requires:    nothing.
-- Locks:       none.
-- Transaction: no matter.

select pg_catalog.set_config('statement_timeout', '0', false),
       pg_catalog.set_config('lock_timeout', '0', false),
       pg_catalog.set_config('idle_in_transaction_session_timeout', '0', false),
       pg_catalog.set_config('client_min_messages', 'notice', false),
       pg_catalog.set_config('plan_cache_mode', 'force_generic_plan', false),
       pg_catalog.set_config('synchronous_commit', 'off', false),
       pg_catalog.set_config('jit', 'off', false)
