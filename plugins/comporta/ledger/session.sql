-- The least that a client of the ledger needs, whoever signed in; and no writer waits for ever.
select set_config('role', 'comporta_app', false), set_config('lock_timeout', %s, false), set_config('client_encoding', 'UTF8', false)
